"""The decorrelation loss against BOS (arXiv 2510.22603), for any model. Depends on torch.

    c_l[s, t] = cos(H_l[s, BOS], H_l[s, t])
    loss = weight · mean over layers l of ( mean over samples s and compared tokens t of c_l² )

With the defaults it is what the authors' public code computes: the residual stream after blocks 1
to L - 1 (counted from 1: the last block is left out), every token between BOS and the transcript,
the gradient flowing through both sides. What their code does not do, and this does: the filling of
shorter samples is left out, and BOS may stand anywhere.

Example:
    >>> states = [torch.eye(3)[None] for _ in range(3)]       # BOS and two tokens, all orthogonal
    >>> mask = torch.tensor([[False, True, True]])
    >>> decorrelation_loss(states, mask, weight=1.0)
    tensor(0.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.training.compared import Compared, compared_tokens
from sinkscope.training.cosine_power import EPSILON, sum_of_powers
from sinkscope.training.states import HeldStates

__all__ = ["decorrelation_loss"]

Reference = str | Tensor
"""``"bos"``; or the reference's position in each sample; or a direction (feature)."""


def decorrelation_loss(
    hidden_states: Sequence[Tensor] | HeldStates,
    compared: Tensor | TokenLayout | Sequence[TokenLayout],
    *,
    weight: float | int,
    power: float | int = 2,
    layers: Sequence[int] | None = None,
    mask_padding: bool = True,
    detach_bos: bool = False,
    reference: Reference = "bos",
    count: Tensor | int | None = None,
) -> Float[Tensor, ""]:
    """The mean power of the cosine between BOS and other tokens, times a weight.

    Half-precision states are compared in float32; what is kept for the backward pass is small
    beside one layer's states.

    Args:
        hidden_states: ``output.hidden_states`` of a model of transformers (embeddings, then one
            ``(sample, token, feature)`` a block, the last one after the final norm), or what
            `hold_states` held.
        compared: the tokens that are compared with BOS, in a batch that is padded on the right: a
            mask ``(sample, token)`` of True
            and False, or the layouts of the batch (every token but the reference and the response).
        weight: of the term; the authors' code has 10,000 as its default, in bf16.
        power: 2 squares the cosine; 1 takes its absolute value.
        layers: 0-based blocks whose outputs are compared; None is all but the last.
        mask_padding: for layouts, whether padding is left out; False takes it as content, as the
            authors' code does.
        detach_bos: whether no gradient flows through the reference.
        reference: ``"bos"`` is the layouts' reference token, or position 0 of a mask; or give its
            position in each sample, or one direction ``(feature)`` to compare with instead.
        count: by how many compared tokens to divide; None is this batch's own. Give the number in
            all batches that are accumulated to one step, so that their sum is the gradient of the
            undivided batch; a batch of which no token is compared then adds 0.

    Returns:
        A scalar, in float32 or wider.

    Raises:
        InputError: shapes disagree, a layer is not there, no token is compared or the reference is,
            or a number is out of its range.

    Example:
        >>> bos_and_twin = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]])
        >>> mask = torch.tensor([[False, True, True]])
        >>> float(decorrelation_loss([bos_and_twin] * 3, mask, weight=10.0))
        5.0
    """
    _check_numbers(weight, power)
    chosen = _chosen_states(hidden_states, layers)
    tokens = compared_tokens(
        compared, chosen[0], mask_padding=mask_padding, may_be_none=count is not None
    )
    target = _target_of(reference, tokens, chosen[0])
    if count is None:
        count = tokens.mask.sum()
    sums = [_sum_over(state, tokens, target, power, detach_bos) for state in chosen]
    total = torch.stack([one.to(sums[0].device) for one in sums]).mean()
    return weight * total / torch.as_tensor(count, device=total.device)


@dataclass(frozen=True)
class _Target:
    """What the tokens are compared with: a position in each sample, or one direction."""

    positions: Int64[Tensor, " sample"] | None = None
    direction: Float[Tensor, " feature"] | None = None

    def of(self, state: Float[Tensor, "sample token feature"]) -> Float[Tensor, "sample feature"]:
        """The target of each sample."""
        if self.direction is not None:
            direction = self.direction.to(state.device, _wide(state.dtype))
            return direction.expand(len(state), -1)
        assert self.positions is not None
        rows = torch.arange(len(state), device=state.device)
        return state[rows, self.positions.to(state.device)]


def _wide(dtype: torch.dtype) -> torch.dtype:
    """In which dtype states are compared."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _sum_over(
    state: Tensor, tokens: Compared, target: _Target, power: float | int, detach: bool
) -> Float[Tensor, ""]:
    """The sum over a layer's compared tokens, in float32 or wider."""
    towards = target.of(state).to(_wide(state.dtype))
    if detach:
        towards = towards.detach()
    unit = torch.nn.functional.normalize(towards, dim=-1, eps=EPSILON)
    return sum_of_powers(state, unit, tokens.mask.to(state.device), power)


def _chosen_states(
    hidden_states: Sequence[Tensor] | HeldStates, layers: Sequence[int] | None
) -> list[Tensor]:
    """The outputs of the chosen blocks."""
    states = list(hidden_states)
    raw = isinstance(hidden_states, HeldStates)
    blocks = len(states) - 1
    usable = blocks if raw else blocks - 1
    chosen = range(blocks - 1) if layers is None else layers
    if len(chosen) == 0 or usable < 1:
        raise InputError(
            f"decorrelation_loss: {len(states)} hidden states and no layer to compare in; give the "
            "embeddings and the output of every block, of two blocks at least."
        )
    wrong = [layer for layer in chosen if not 0 <= layer < usable]
    if wrong:
        why = "" if raw else " (the last entry of hidden_states is after the final norm)"
        raise InputError(
            f"decorrelation_loss: there is no layer {wrong[0]} to compare in; choose from 0 to "
            f"{usable - 1}{why}."
        )
    return [states[layer + 1] for layer in chosen]


def _target_of(reference: Reference, tokens: Compared, state: Tensor) -> _Target:
    samples, _, features = state.shape
    if isinstance(reference, Tensor) and reference.is_floating_point():
        if reference.shape != (features,):
            raise InputError(
                f"decorrelation_loss: the direction has shape {tuple(reference.shape)}; give one "
                f"number for each of the {features} features."
            )
        return _Target(direction=reference)
    if isinstance(reference, Tensor):
        if reference.shape != (samples,):
            raise InputError(
                f"decorrelation_loss: {tuple(reference.shape)} positions for {samples} samples; "
                "give one position a sample."
            )
        tokens.refuse_reference(reference)
        return _Target(positions=reference)
    if reference != "bos":
        raise InputError(
            f"decorrelation_loss: reference is {reference!r}; give 'bos', positions or a direction."
        )
    tokens.refuse_reference(tokens.references)
    return _Target(positions=tokens.references)


def _check_numbers(weight: float | int, power: float | int) -> None:
    if not 0 <= weight < math.inf:
        raise InputError(f"decorrelation_loss: the weight is {weight}; give 0 or more.")
    if not 1 <= power < math.inf:
        raise InputError(f"decorrelation_loss: the power is {power}; give 1, 2 or more.")
