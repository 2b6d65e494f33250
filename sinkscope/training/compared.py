"""Which tokens a decorrelation loss compares with BOS, and where BOS is. Depends on torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from sinkscope.errors import InputError
from sinkscope.glossary import PADDING
from sinkscope.layout import TokenLayout

__all__ = ["Compared", "compared_tokens"]

RESPONSE = "response"


@dataclass(frozen=True)
class Compared:
    """The tokens that are compared, and with what.

    Attributes:
        mask: True at tokens that are compared with the reference.
        references: the reference's position in each sample.
    """

    mask: Bool[Tensor, "sample token"]
    references: Int64[Tensor, " sample"]

    def refuse_reference(self, positions: Int64[Tensor, " sample"]) -> None:
        """Refuse a reference that is outside the sample, or compared with itself.

        Raises:
            InputError: naming the sample.
        """
        where = positions.to(self.mask.device)
        length = self.mask.shape[1]
        if bool(((where < 0) | (where >= length)).any()):
            raise InputError(
                f"decorrelation_loss: references at {positions.tolist()} in samples of {length} "
                "tokens; give positions inside."
            )
        own = self.mask.gather(1, where[:, None])[:, 0]
        if bool(own.any()):
            sample = int(torch.nonzero(own)[0])
            raise InputError(
                f"decorrelation_loss: token {int(where[sample])} of sample {sample} is the "
                "reference and is compared with itself; leave it out of the mask, or give the "
                "reference's positions."
            )


def compared_tokens(
    compared: Tensor | TokenLayout | Sequence[TokenLayout],
    state: Tensor,
    *,
    mask_padding: bool = True,
    may_be_none: bool = False,
) -> Compared:
    """The compared tokens of a batch.

    Args:
        compared: a mask ``(sample, token)``, whose reference is position 0; or the layouts.
        state: ``(sample, token, feature)``, any layer's.
        mask_padding: for layouts, whether padding is left out.
        may_be_none: whether a batch may have no compared token, as one of several may.

    Raises:
        InputError: neither a mask nor layouts, another shape than the states', or no token is
            compared.
    """
    mask, references = (
        _of_mask(compared)
        if isinstance(compared, Tensor)
        else _of_layouts(
            [compared] if isinstance(compared, TokenLayout) else list(compared), mask_padding
        )
    )
    if mask.shape != state.shape[:2]:
        raise InputError(
            f"decorrelation_loss: the compared tokens have shape {tuple(mask.shape)}, the states "
            f"{tuple(state.shape[:2])} (sample, token); give one entry for each token."
        )
    if not may_be_none and not bool(mask.any()):
        raise InputError(
            "decorrelation_loss: no token is compared with BOS; the mask or the layouts hold none."
        )
    return Compared(mask.to(state.device), references.to(state.device))


def _of_mask(mask: Tensor) -> tuple[Tensor, Tensor]:
    if mask.dtype != torch.bool:
        raise InputError(
            f"decorrelation_loss: the mask has dtype {mask.dtype}; give True and False."
        )
    return mask, torch.zeros(len(mask), dtype=torch.long, device=mask.device)


def _of_layouts(layouts: Sequence[TokenLayout], mask_padding: bool) -> tuple[Tensor, Tensor]:
    _refuse_others(layouts)
    rows = [_of_layout(layout, mask_padding) for layout in layouts]
    if len({len(row) for row in rows}) > 1:
        raise InputError(
            f"decorrelation_loss: the layouts have {', '.join(str(len(row)) for row in rows)} "
            "tokens; give those of the padded batch, all of one length."
        )
    mask = torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, 0, dtype=torch.bool)
    return mask, torch.tensor([layout.reference for layout in layouts], dtype=torch.long)


def _refuse_others(layouts: Sequence[object]) -> None:
    wrong = [one for one in layouts if not isinstance(one, TokenLayout)]
    if wrong:
        raise InputError(
            f"decorrelation_loss: the compared tokens hold a {type(wrong[0]).__name__}; give a "
            "torch tensor of True and False, or the layouts of the batch."
        )


def _of_layout(layout: TokenLayout, mask_padding: bool) -> Bool[np.ndarray, " token"]:
    left_out = (RESPONSE, PADDING) if mask_padding else (RESPONSE,)
    mask = ~layout.mask(*left_out)
    mask[layout.reference] = False
    return mask
