"""What a statistic is to a probe: a pure function into a state that merges. Depends on torch only.

A `Reducer` is a frozen dataclass: the site that it reads, its parameters, ``reduce(value)``, which
makes the state of one sample and one layer, and ``rules``, which say for every entry of a state how
two of them combine. `merge` is written once. The law that every reducer keeps:
``reduce(a ++ b) == merge(reduce(a), reduce(b))``, where ``++`` joins what comes first in a sample
with what comes after it: blocks of query rows, a prompt and the tokens that a cache adds to it.
A state belongs to one sample, so joining samples is putting their states side by side.

Example:
    >>> import torch
    >>> first, then = {"norm": torch.ones(2)}, {"norm": torch.zeros(1)}
    >>> merge([first, then], {"norm": Cat(axis=0)})["norm"].tolist()
    [1.0, 1.0, 0.0]
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from sinkscope.errors import SiteError
from sinkscope.glossary import SITES

__all__ = [
    "Cat",
    "Max",
    "Merger",
    "Reducer",
    "Rule",
    "State",
    "Sum",
    "Top",
    "extended",
    "merge",
    "site_prefix",
]

State = Mapping[str, Tensor]
"""What a reducer knows of one sample in one layer, by the names of its entries."""


@dataclass(frozen=True)
class Sum:
    """Entries add; the shorter one is extended with zeros at the end of its axes."""


@dataclass(frozen=True)
class Max:
    """The larger of each pair stays."""


@dataclass(frozen=True)
class Cat:
    """Entries follow one another along ``axis``; other axes are extended with zeros."""

    axis: int


@dataclass(frozen=True)
class Top:
    """The ``k`` entries of largest magnitude in ``by`` stay; all such entries move together."""

    by: str
    k: int


Rule = Sum | Max | Cat | Top
"""How two entries of a state combine."""


@dataclass(frozen=True)
class Reducer(ABC):
    """A statistic of one site.

    Attributes:
        site: the word of ``glossary.SITES`` that it reads.
        layers: the 0-based layers that it reads; None for all.
    """

    site: str
    layers: Sequence[int] | None = field(default=None, kw_only=True)

    needs_reference: ClassVar[bool] = False
    """Whether it compares with the layout's reference token."""

    def __post_init__(self) -> None:
        if self.site not in SITES:
            raise SiteError(
                f"{type(self).__name__}: there is no site {self.site!r}; "
                f"use one of {', '.join(SITES)}."
            )

    @abstractmethod
    def rules(self) -> Mapping[str, Rule]:
        """How each entry of two states combines."""

    @abstractmethod
    def reduce(self, value: Any) -> State:
        """The state of a value: `Rows` of an attention map, or `Tokens` of any other site."""

    @abstractmethod
    def variables(self) -> Mapping[str, tuple[str, ...]]:
        """What `finish` gives: the record's variables with their axes after sample and layer."""

    def finish(self, state: State) -> State:
        """The record's variables, from the state of a whole sample."""
        return state

    def merge(self, states: Sequence[State]) -> State:
        """The state of a sample from those of its parts, in the order of the tokens."""
        return merge(states, self.rules())


def site_prefix(site: str) -> str:
    """What a variable's name begins with; statistics of ``resid_post`` carry no prefix."""
    return "" if site == "resid_post" else f"{site}_"


@dataclass
class Merger:
    """States of consecutive parts of one sample, combined as they come. They are left as they are.

    Attributes:
        rules: how each entry combines; a state may lack entries that say nothing new of its part.
        backwards: whether the last part comes first.
    """

    rules: Mapping[str, Rule]
    backwards: bool = False
    _sums: dict[str, Tensor] = field(default_factory=dict)
    _lists: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, state: State) -> None:
        """Take the state of the next part in."""
        for name, entry in state.items():
            rule, entries = self.rules[name], self._lists.setdefault(name, [])
            if isinstance(rule, Sum):
                self._sums[name] = _added(self._sums.get(name), entry)
            elif isinstance(rule, Max) and entries:
                entries[0] = torch.maximum(entries[0], entry)
            else:
                entries.append(entry)

    def result(self) -> dict[str, Tensor]:
        """The state of all parts together; there must have been one."""
        step = -1 if self.backwards else 1
        merged = {
            name: self._sums[name]
            if name in self._sums
            else _joined(entries[::step], self.rules[name])
            for name, entries in self._lists.items()
        }
        return _topmost(merged, self.rules)


def merge(states: Iterable[State], rules: Mapping[str, Rule]) -> dict[str, Tensor]:
    """Combine the states of consecutive parts of one sample.

    Args:
        states: at least one, in the order of the tokens.
        rules: how each entry combines.
    """
    merger = Merger(rules)
    for state in states:
        merger.add(state)
    return merger.result()


def _added(total: Tensor | None, entry: Tensor) -> Tensor:
    """The sum so far with one entry more; ``total`` is this function's own and may change."""
    if total is None:
        return entry.clone()
    if any(new > old for new, old in zip(entry.shape, total.shape, strict=True)):
        total = extended(total, [max(s) for s in zip(entry.shape, total.shape, strict=True)])
    total[tuple(slice(0, size) for size in entry.shape)] += entry
    return total


def _joined(entries: list[Tensor], rule: Rule) -> Tensor:
    if len(entries) == 1:
        return entries[0]
    axis = (rule.axis if isinstance(rule, Cat) else -1) % entries[0].ndim
    shape = [max(sizes) for sizes in zip(*(entry.shape for entry in entries), strict=True)]
    even = [
        extended(entry, [*shape[:axis], entry.shape[axis], *shape[axis + 1 :]]) for entry in entries
    ]
    return torch.cat(even, dim=axis)


def extended(entry: Tensor, shape: Sequence[int]) -> Tensor:
    """The entry with zeros at the end of its axes, up to a shape."""
    if list(entry.shape) == list(shape):
        return entry
    longer = entry.new_zeros(shape)
    longer[tuple(slice(0, size) for size in entry.shape)] = entry
    return longer


def _topmost(state: dict[str, Tensor], rules: Mapping[str, Rule]) -> dict[str, Tensor]:
    tops = {name: rule for name in state if isinstance(rule := rules[name], Top)}
    for name, rule in tops.items():
        if name != rule.by:
            continue
        order = state[name].abs().topk(min(rule.k, len(state[name]))).indices
        chosen = {other: state[other][order] for other, same in tops.items() if same.by == name}
        state.update(chosen)
    return state
