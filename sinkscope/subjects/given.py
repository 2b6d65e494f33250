"""Checks token ids, embeddings and masks that the caller made, and completes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from sinkscope.errors import InputError

__all__ = ["check_embeds", "check_ids", "check_mask", "padding_kwargs", "real_tokens"]


def check_ids(ids: Tensor | Sequence[Any], embedding: nn.Module | None) -> Tensor:
    """Token ids as ``(sample, token)``, int64.

    Raises:
        InputError: ragged or empty ids, another shape, fractions, or ids outside the vocabulary.
    """
    try:
        tensor = ids if isinstance(ids, Tensor) else torch.tensor(ids)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"input_ids are no rectangle of whole numbers ({error}); pad them and give an "
            "attention_mask, or record them one by one."
        ) from error
    if tensor.ndim == 1:
        tensor = tensor[None]
    if tensor.ndim != 2 or not tensor.numel() or tensor.is_floating_point():
        raise InputError(
            f"input_ids have shape {tuple(tensor.shape)} and dtype {tensor.dtype}; give whole "
            "numbers (sample, token), at least one of each."
        )
    entries = getattr(embedding, "num_embeddings", None)
    lowest, highest = int(tensor.min()), int(tensor.max())
    if lowest < 0 or (entries is not None and highest >= entries):
        raise InputError(
            f"input_ids run from {lowest} to {highest}, but the vocabulary has {entries} entries."
        )
    return tensor.long()


def check_embeds(embeds: Tensor | None, width: int) -> Tensor:
    """Embeddings as ``(sample, token, feature)``.

    Raises:
        InputError: another shape or width, none at all, or whole numbers.
    """
    if not isinstance(embeds, Tensor):
        raise InputError(f"inputs_embeds are a {type(embeds).__name__}; give a torch tensor.")
    tensor = embeds[None] if embeds.ndim == 2 else embeds
    if tensor.ndim != 3 or not tensor.numel() or tensor.shape[-1] != width:
        raise InputError(
            f"inputs_embeds have shape {tuple(tensor.shape)}; give (sample, token, {width})."
        )
    if not tensor.is_floating_point():
        raise InputError(f"inputs_embeds have dtype {tensor.dtype}; give floating-point numbers.")
    return tensor


def check_mask(mask: Tensor | Sequence[Any] | None, given: Tensor) -> Tensor | None:
    """An attention mask ``(sample, token)`` of 0 and 1, int64; None where nothing is padded.

    Raises:
        InputError: another shape, other values, a sample without tokens, or padding in the middle.
    """
    if mask is None:
        return None
    tensor = torch.as_tensor(mask).cpu()
    tensor = tensor[None] if tensor.ndim == 1 else tensor
    if tensor.shape != given.shape[:2]:
        raise InputError(
            f"attention_mask has shape {tuple(tensor.shape)}, the input {tuple(given.shape[:2])} "
            "(sample, token); give one entry for each position."
        )
    if not torch.isin(tensor, torch.tensor([0, 1], dtype=tensor.dtype)).all():
        raise InputError("attention_mask holds values other than 0 and 1; 1 marks a token.")
    tensor = tensor.long()
    edges = torch.diff(tensor, dim=1, prepend=torch.zeros_like(tensor[:, :1]))
    starts = (edges == 1).sum(dim=1)
    if not bool((starts == 1).all()):
        sample = int((starts != 1).nonzero()[0])
        found = "has no token" if starts[sample] == 0 else "has padding between its tokens"
        raise InputError(
            f"attention_mask: sample {sample} {found}; pad on the left or on the right."
        )
    return None if bool(tensor.all()) else tensor


def padding_kwargs(mask: Tensor | None) -> dict[str, Tensor]:
    """What a padded forward needs: the mask and, with padding on the left, the positions.

    Without them a model with learned positions would see a left-padded sample shifted.
    """
    if mask is None:
        return {}
    if bool(mask[:, 0].all()):
        return {"attention_mask": mask}
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return {"attention_mask": mask, "position_ids": positions}


def real_tokens(given: Tensor, mask: Any) -> Bool[np.ndarray, "sample token"]:
    """Where a decoder's input holds tokens, by the attention mask that it receives.

    Args:
        given: ids ``(sample, token)`` or embeddings ``(sample, token, feature)``.
        mask: None, ``(sample, token)``, ``(sample, 1, query, key)`` boolean or additive, or a
            dictionary of such, one a kind of attention.

    Raises:
        InputError: a mask of another kind.
    """
    samples, tokens = given.shape[:2]
    if isinstance(mask, dict):
        mask = next(iter(mask.values()))
    if mask is None:
        return np.ones((samples, tokens), dtype=bool)
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] == tokens:
        return mask.bool().cpu().numpy()
    if isinstance(mask, Tensor) and mask.ndim == 4 and mask.shape[2] == tokens:
        itself = mask[:, 0].diagonal(dim1=1, dim2=2).expand(samples, -1)
        return (itself if itself.dtype == torch.bool else itself >= 0).cpu().numpy()
    shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
    raise InputError(
        f"The decoder got an attention mask of {shape} for {samples} samples of {tokens} tokens; "
        "give (sample, token), or no mask where nothing is padded."
    )
