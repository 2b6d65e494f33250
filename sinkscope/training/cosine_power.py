"""Sum of powers of cosines to one vector a sample, with a gradient that is written by hand.

Autograd would keep and pass several copies of every layer's states; this keeps the states that the
model keeps anyway, and makes one copy of one layer's at a time. Depends on torch.

    c[s, t] = x[s, t] · u[s] / |x[s, t]|            with |u| = 1
    d c / d x = u / |x| - c x / |x|²,   d c / d u = x / |x|
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sinkscope.errors import InputError

__all__ = ["EPSILON", "sum_of_powers"]

EPSILON = 1e-12
"""The shortest length that a state is divided by, as in the authors' code."""


def sum_of_powers(
    state: Float[Tensor, "sample token feature"],
    unit: Float[Tensor, "sample feature"],
    mask: Bool[Tensor, "sample token"],
    power: float | int,
) -> Float[Tensor, ""]:
    """Sum over the tokens of the mask of ``|cos(state, unit)| ** power``.

    Args:
        state: of any floating dtype; half precision is computed in float32, also under autocast.
        unit: vectors of length 1, in float32 or wider.
        mask: the tokens that count.
        power: 1 or more.

    Example:
        >>> state = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
        >>> mask = torch.tensor([[True, True]])
        >>> float(sum_of_powers(state, torch.tensor([[0.0, 1.0]]), mask, 2))
        1.64
    """
    return _SumOfPowers.apply(state, unit, mask, power)  # pyright: ignore[reportReturnType]


class _SumOfPowers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, state: Tensor, unit: Tensor, mask: Tensor, power: float | int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.autocast(state.device.type, enabled=False):
            wide = _counting(state.to(unit.dtype), mask)
            length = torch.linalg.vector_norm(wide, dim=-1).clamp_(min=EPSILON)
            cosine = torch.bmm(wide, unit[:, :, None])[:, :, 0].div_(length)
            cosine.masked_fill_(~mask, 0)
            powers = cosine.square() if power == 2 else cosine.abs() ** power
        ctx.save_for_backward(state, unit, cosine, length, mask)
        ctx.power = power
        return powers.sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise InputError(
                "decorrelation_loss: its gradient has no gradient of its own; leave create_graph "
                "out."
            )
        state, unit, cosine, length, mask = ctx.saved_tensors
        with torch.autocast(state.device.type, enabled=False):
            slope = _slope(cosine, ctx.power).masked_fill_(~mask, 0).mul_(gradient)
            across = slope / length
            wide = _counting(state.to(unit.dtype), mask)
            of_unit = None
            if ctx.needs_input_grad[1]:
                of_unit = torch.bmm(across[:, None], wide)[:, 0]
            if not ctx.needs_input_grad[0]:
                return None, of_unit, None, None
            along = (across * cosine).div_(length).masked_fill_(length <= EPSILON, 0).neg_()
            copied = wide is not state
            of_state = wide.mul_(along[:, :, None]) if copied else wide * along[:, :, None]
            of_state.baddbmm_(across[:, :, None], unit[:, None])
        return of_state.to(state.dtype), of_unit, None, None


def _counting(wide: Tensor, mask: Tensor) -> Tensor:
    """The states, without what padding may hold: infinite times 0 is no number."""
    if bool(torch.isfinite(wide.sum())):
        return wide
    return wide.masked_fill(~mask[..., None], 0)


def _slope(cosine: Tensor, power: float | int) -> Tensor:
    """The derivative of the power of the cosine's size."""
    if power == 2:
        return 2 * cosine
    if power == 1:
        return cosine.sign()
    return power * cosine.abs() ** (power - 1) * cosine.sign()
