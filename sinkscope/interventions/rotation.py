"""Rotate: turn states towards a direction, their norms kept.

Example:
    >>> east, north = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    >>> rotated(east, north, 1.0).tolist()
    [[0.0, 2.0]]
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sinkscope.errors import InputError
from sinkscope.interventions.edits import Edit, View
from sinkscope.interventions.targets import TokenChoice, of_sample, rows_of_sample, tokens_of
from sinkscope.layout import TokenLayout

__all__ = ["Rotate", "rotated"]

_OTHERS = ("mean_other", "nearest_other")


@dataclass(frozen=True, eq=False, kw_only=True)
class Rotate(Edit):
    """Turn states towards a direction on the great circle, their norms kept.

    With unit directions u of the state and v of the target, and the angle θ between them,
    ``x' = |x| (sin((1-t) θ) u + sin(t θ) v) / sin θ``. The paper (arXiv 2510.22603) rotates states
    towards and away from BOS; formula, layer and fraction are ours.

    Attributes:
        toward: a token (position, segment or label), ``"mean_other"`` (the mean direction of the
            tokens that are neither rotated, nor the reference, nor among ``without``),
            ``"nearest_other"`` (of these, the one with the largest cosine to the state), or a
            direction ``[feature]``.
        without: tokens that are no others, such as the other sinks: a choice, or a table.
        fraction: how far, from 0 (stays) to 1 (arrives).
    """

    toward: int | np.integer | str | Tensor = "bos"
    without: TokenChoice | pd.DataFrame = ()
    fraction: float | int = 1.0
    site: str = "resid_pre"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.site == "z" or self.features is not None:
            raise InputError("Rotate turns whole states; leave features= out, and site 'z'.")
        if not 0 <= self.fraction <= 1:
            raise InputError(f"Rotate: fraction is {self.fraction}; give a number from 0 to 1.")

    @property
    def column(self) -> None:
        """None: whole states are turned."""
        return None

    def new(self, values: Tensor, view: View | None) -> Tensor:
        """The turned states."""
        if view is None:
            raise InputError("Rotate: the sample's other states are not known.")
        return rotated(values, self._target(values, view), float(self.fraction))

    def remembers(self, layout: TokenLayout) -> Sequence[int]:
        """The target, where it is a token."""
        if isinstance(self.toward, Tensor) or self.toward in _OTHERS:
            return ()
        return tokens_of(self.toward, layout)[:1].tolist()

    def _target(self, values: Tensor, view: View) -> Tensor:
        if isinstance(self.toward, Tensor):
            return self.toward.to(values).expand_as(values)
        if self.toward in _OTHERS:
            return self._others(values, view)
        found = tokens_of(self.toward, view.layout)
        if not len(found):
            raise InputError(
                f"Rotate: the sample has no token {self.toward!r} to turn towards; name a "
                "position, a segment or a label that it has."
            )
        return view.state(int(found[0])).to(values).expand_as(values)

    def _others(self, values: Tensor, view: View) -> Tensor:
        taken = {*view.cells.tokens.tolist(), view.layout.reference, *self._left_out(view)}
        rows = [row for row in range(len(view.states)) if row + view.start not in taken]
        if not rows:
            raise InputError("Rotate: this forward holds no other token to turn towards.")
        others = _unit(view.states[rows].to(values))
        if self.toward == "mean_other":
            return others.mean(0).expand_as(values)
        return others[(_unit(values) @ others.T).argmax(-1)]

    def _left_out(self, view: View) -> list[int]:
        if isinstance(self.without, pd.DataFrame):
            return rows_of_sample(self.without, view.sample)["token"].tolist()
        return tokens_of(self.without, view.layout).tolist()

    def for_sample(self, sample: int) -> "Rotate":
        """The same edit for one sample alone, which becomes sample 0."""
        edit = super().for_sample(sample)
        return replace(edit, without=of_sample(self.without, sample))


def rotated(states: Tensor, target: Tensor, fraction: float) -> Tensor:
    """States turned towards targets by a fraction of the angle between them, norms kept.

    Where the two directions are equal or opposite there is no great circle: equal ones stay, for
    opposite ones any would do, and the states stay too unless they arrive (fraction 1).
    """
    x, v = states.double(), _unit(target.double())
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    u = _unit(x)
    theta = torch.arccos((u * v).sum(-1, keepdim=True).clamp(-1, 1))
    sine = torch.sin(theta)
    apart = sine > 1e-7
    safe = torch.where(apart, sine, torch.ones_like(sine))
    turned = (torch.sin((1 - fraction) * theta) * u + torch.sin(fraction * theta) * v) / safe
    ends = v if fraction == 1 else u
    return (norm * torch.where(apart, turned, ends)).to(states.dtype)


def _unit(states: Tensor) -> Tensor:
    return torch.nn.functional.normalize(states, dim=-1)
