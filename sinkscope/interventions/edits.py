"""Edits of states: zero, replace, scale, clamp. What is changed is a target's business.

Each is a frozen dataclass whose ``new`` says what stands there afterwards.

Example:
    >>> Scale(by=0.5).new(torch.tensor([2.0, -4.0]), None).tolist()
    [1.0, -2.0]
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sinkscope.errors import InputError
from sinkscope.glossary import SITES as GLOSSARY
from sinkscope.interventions.targets import Cells, Numbers, Target, listed
from sinkscope.layout import TokenLayout

__all__ = ["Clamp", "Edit", "Replace", "Scale", "View", "Zero"]

SITES = (
    *("resid_pre", "resid_post", "attn_out", "mlp_out", "mlp_gate", "mlp_up", "mlp_act", "z"),
    *("expert_gates", "expert_out"),
)
"""Where states can be changed."""

_NOT = {
    "resid_mid": "only a copy of the stream passes there",
    "router": "its probabilities are a by-product; the gates are at 'expert_gates'",
}


@dataclass(frozen=True, eq=False)
class View:
    """What an edit may look at: one sample's states at the site, as earlier edits left them.

    Attributes:
        layout: the sample's tokens so far.
        start: position of the first token of this forward.
        states: of the tokens of this forward, ``[token, feature]``.
        cells: what is changed here.
        held: states of tokens of earlier forwards, by position.
        sample: its number, for tables.
    """

    layout: TokenLayout
    start: int
    states: Tensor
    cells: Cells
    held: dict[int, Tensor]
    sample: int = 0

    def state(self, token: int) -> Tensor:
        """The state of one token, also of one that a cache holds.

        Raises:
            InputError: if it was not seen.
        """
        if self.start <= token < self.start + len(self.states):
            return self.states[token - self.start].clone()
        if token not in self.held:
            raise InputError(
                f"The state of token {token} is not known in this forward; open the block before "
                "the prefill that holds it."
            )
        return self.held[token]


@dataclass(frozen=True, eq=False, kw_only=True)
class Edit(Target, ABC):
    """A change of states at one site.

    Attributes:
        site: one of ``SITES``; ``"z"`` is what attention's heads hand to the output projection.
        heads: at ``"z"``, which heads; None for all.
    """

    site: str = "resid_post"
    heads: Numbers | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if self.site not in SITES:
            why = _NOT.get(self.site, "")
            raise InputError(
                f"{name}: site {self.site!r} cannot be changed{f' ({why})' * bool(why)}; use one "
                f"of {', '.join(SITES)}."
            )
        if self.heads is not None and self.site != "z":
            raise InputError(f"{name}: heads= goes with site='z', not with {self.site!r}.")
        if self.features is not None and self.site == "z":
            raise InputError(f"{name}: at site 'z' choose heads=, not features=.")
        if self.at is not None and self.features is None and self.column not in (None, "feature"):
            self._refuse_features(self.at)

    @property
    def column(self) -> str | None:
        """The column of ``at`` that is meant: features, neurons, or none where heads are."""
        return None if self.site == "z" else GLOSSARY[self.site].dims[-1]

    def _refuse_features(self, at: pd.DataFrame) -> None:
        """A table's features are those of the residual stream; neurons have other numbers."""
        if "feature" in at and self.column not in at:
            raise InputError(
                f"{type(self).__name__}: the table at= names features of the residual stream, but "
                f"{self.site!r} has {self.column}s; give features=, or a table with a column "
                f"{self.column!r}."
            )

    @abstractmethod
    def new(self, values: Tensor, view: View | None) -> Tensor:
        """What stands there afterwards.

        Args:
            values: ``[cell]`` where single features are changed, else ``[token, feature]`` (with a
                head between at ``"z"``).
            view: the sample.
        """

    def remembers(self, layout: TokenLayout) -> Sequence[int]:
        """The tokens whose states later forwards will need."""
        return ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Zero(Edit):
    """Set values to 0."""

    def new(self, values: Tensor, view: View | None) -> Tensor:
        """Zeros."""
        return torch.zeros_like(values)


@dataclass(frozen=True, eq=False, kw_only=True)
class Scale(Edit):
    """Multiply values.

    Attributes:
        by: the factor.
    """

    by: float | int

    def new(self, values: Tensor, view: View | None) -> Tensor:
        """The values times the factor."""
        return values * self.by


@dataclass(frozen=True, eq=False, kw_only=True)
class Clamp(Edit):
    """Keep magnitudes at or below a limit; signs stay.

    Attributes:
        limit: the largest magnitude that is left.
    """

    limit: float | int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit < 0:
            raise InputError(f"Clamp: limit is {self.limit}; give 0 or more.")

    def new(self, values: Tensor, view: View | None) -> Tensor:
        """The values, none of them larger than the limit."""
        return values.clamp(-self.limit, self.limit)


@dataclass(frozen=True, eq=False, kw_only=True)
class Replace(Edit):
    """Set values to others, such as their mean over other clips.

    Attributes:
        value: a number, or for every token the same vector ``[feature]`` of the whole state or of
            the chosen ``features``; None takes the column ``replacement`` of the table ``at``.
    """

    value: float | int | np.number | Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.value is None and (self.at is None or "replacement" not in self.at):
            raise InputError(
                "Replace: give value=, or a table at= with a column 'replacement' (see "
                "mean_over_samples)."
            )

    def new(self, values: Tensor, view: View | None) -> Tensor:
        """The replacement, in the values' shape."""
        if self.value is None and view is not None and self.at is not None:
            own = torch.tensor(self.at["replacement"].to_numpy(float)[view.cells.rows]).to(values)
            return own.reshape(-1, *[1] * (values.ndim - 1)).expand_as(values)
        value = torch.as_tensor(self.value, dtype=values.dtype, device=values.device)
        return value.expand_as(values) if value.ndim == 0 else self._at_each_token(value, values)

    def _at_each_token(self, value: Tensor, values: Tensor) -> Tensor:
        """The same vector at every token."""
        chosen = 1 if self.features is None else len(listed(self.features))
        width = values.shape[-1] if values.ndim > 1 else chosen
        if value.shape != (width,):
            raise InputError(
                f"Replace: value= has {value.numel()} numbers, but {width} are changed at each "
                f"token of {self.site!r}; give as many, or one number."
            )
        return value.repeat(values.numel() // width).reshape(values.shape)
