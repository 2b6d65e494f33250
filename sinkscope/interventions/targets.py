"""Which tokens and features an edit changes, in the words of a layout or the rows of a table.

Example:
    >>> from sinkscope.layout import TokenLayout
    >>> layout = TokenLayout.of(["bos", "audio", "audio", "delimiter"], ["<s>", "a0", "a1", "</a>"])
    >>> tokens_of(["bos", "</a>", 2], layout).tolist()
    [0, 2, 3]
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Int

from sinkscope.errors import InputError
from sinkscope.glossary import SEGMENTS
from sinkscope.layout import TokenLayout

__all__ = [
    "Cells",
    "Numbers",
    "Target",
    "TokenChoice",
    "listed",
    "of_sample",
    "rows_of_sample",
    "tokens_of",
]

Numbers = int | np.integer | np.ndarray | Sequence[int | np.integer]
"""One or several whole numbers, also as a table's cells hold them."""

TokenChoice = Numbers | str | Sequence[int | np.integer | str] | None
"""Tokens by position, by segment or by label; None for all."""

Self = TypeVar("Self", bound="Target")


@dataclass(frozen=True, eq=False)
class Cells:
    """What an edit changes in one sample and layer.

    Attributes:
        tokens: positions in the sample.
        features: one for each token, or None where the whole state is changed.
        rows: place of the table's row that each comes from, where there is a table.
    """

    tokens: Int[np.ndarray, " cell"]
    features: Int[np.ndarray, " cell"] | None = None
    rows: Int[np.ndarray, " cell"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, chosen: np.ndarray) -> "Cells":
        """Some of the cells."""
        return Cells(
            self.tokens[chosen],
            None if self.features is None else self.features[chosen],
            None if self.rows is None else self.rows[chosen],
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Target:
    """Where an edit acts.

    Attributes:
        at: a table of tokens, of ``find_massive_activations``, ``find_sinks`` or ``trace_origin``:
            its rows say sample, layer, token and, if they do, feature (at the sites of neurons,
            neuron). The samples are those that the model is given inside the block, in their
            order, again and again (``attrs["samples"]`` is how many the table is of); a table of
            one sample is for each of them.
        tokens: instead, tokens by position, segment or label; None for all.
        layers: 0-based layers; with ``at``, in place of the table's.
        features: features or neurons; None for the table's, else for whole states.
    """

    at: pd.DataFrame | None = None
    tokens: TokenChoice = None
    layers: Numbers | None = None
    features: Numbers | None = None

    def __post_init__(self) -> None:
        if self.at is None:
            return
        object.__setattr__(self, "at", self.at.reset_index(drop=True))
        name = type(self).__name__
        if self.tokens is not None:
            raise InputError(f"{name}: give at= or tokens=, not both.")
        missing = [column for column in ("sample", "token") if column not in self.at]
        if self.layers is None and "layer" not in self.at:
            missing.append("layer")
        if missing:
            raise InputError(
                f"{name}: the table at= has no column {missing[0]!r}; give what find_sinks, "
                "find_massive_activations or trace_origin returned."
            )

    @property
    def column(self) -> str | None:
        """The column of ``at`` that names single features; None where whole states are meant."""
        return "feature"

    def names(self, sample: int) -> bool:
        """Whether it names anything in the ``sample``-th sample that runs."""
        return self.at is None or len(rows_of_sample(self.at, sample)) > 0

    def layers_in(self, n_layers: int) -> list[int]:
        """The layers in which it acts.

        Raises:
            InputError: the model has no such layer.
        """
        if self.layers is not None:
            wanted = listed(self.layers)
        elif self.at is not None:
            wanted = self.at["layer"].to_numpy(np.int64).tolist()
        else:
            wanted = list(range(n_layers))
        for layer in wanted:
            if not 0 <= layer < n_layers:
                raise InputError(
                    f"{type(self).__name__}: there is no layer {layer}; the model's layers are 0 "
                    f"to {n_layers - 1}."
                )
        return sorted(set(wanted))

    def cells(self, layout: TokenLayout, sample: int, layer: int) -> Cells:
        """What it changes in a sample whose tokens so far are those of ``layout``."""
        own = None if self.features is None else np.array(listed(self.features), np.int64)
        if self.at is None:
            return _crossed(tokens_of(self.tokens, layout), own)
        rows = rows_of_sample(self.at, sample)
        if self.layers is None:
            rows = rows.loc[rows["layer"] == layer]
        rows = rows.loc[rows["token"] < len(layout)]
        _refuse_other_tokens(rows, layout, type(self).__name__)
        single = self.column if own is None and self.column in rows else None
        rows = rows.drop_duplicates(["token"] if single is None else ["token", single])
        tokens, places = rows["token"].to_numpy(np.int64), rows.index.to_numpy()
        if single is None:
            return _crossed(tokens, own, places)
        return Cells(tokens, rows[single].to_numpy(np.int64), places)

    def for_sample(self: Self, sample: int) -> Self:
        """The same edit for one sample alone, which becomes sample 0."""
        return self if self.at is None else replace(self, at=of_sample(self.at, sample))


def of_sample(table: Any, sample: int) -> Any:
    """A table's rows of one sample, as a table of sample 0; what is no table stays."""
    if not isinstance(table, pd.DataFrame):
        return table
    rows = rows_of_sample(table, sample).assign(sample=0)
    rows.attrs = {**table.attrs, "samples": 1}
    return rows


def rows_of_sample(table: pd.DataFrame, sample: int) -> pd.DataFrame:
    """The rows for the ``sample``-th sample that runs; after a table's last sample it begins again.

    Raises:
        InputError: the table does not say how many samples it is of, and another one comes.
    """
    numbers = table["sample"].to_numpy(np.int64)
    known, last = table.attrs.get("samples"), int(numbers.max(initial=0))
    if known is None and 0 < last < sample:
        raise InputError(
            f"The table at= names samples up to {last}, and does not say whether sample {sample} "
            "is another one or sample 0 again; set its attrs['samples'], as find_sinks does."
        )
    return table.loc[numbers == sample % int(known or last + 1)]


def tokens_of(choice: TokenChoice, layout: TokenLayout) -> Int[np.ndarray, " token"]:
    """The positions that a choice names; none where the sample has no such token."""
    if choice is None:
        return np.arange(len(layout))
    found: set[int] = set()
    for one in listed(choice):
        if isinstance(one, str):
            words: Any = layout.segments if one in SEGMENTS else layout.labels
            found |= {place for place, word in enumerate(words) if word == one}
        elif 0 <= one < len(layout):
            found.add(int(one))
        elif one < 0:
            raise InputError(f"There is no token {one}: positions count from 0.")
    return np.array(sorted(found), np.int64)


def listed(choice: Any) -> list[Any]:
    """One or several, as a list.

    Example:
        >>> listed("bos"), listed(np.int64(3)), listed((1, 2))
        (['bos'], [3], [1, 2])
    """
    several = [choice] if isinstance(choice, str) else np.atleast_1d(np.asarray(choice, object))
    return [int(one) if isinstance(one, np.integer) else one for one in several]


def _crossed(
    tokens: np.ndarray, features: np.ndarray | None, rows: np.ndarray | None = None
) -> Cells:
    """Every one of the tokens with every one of the features."""
    if features is None:
        return Cells(tokens, None, rows)
    each = np.repeat(np.arange(len(tokens)), len(features))
    crossed = np.tile(features, len(tokens))
    return Cells(tokens[each], crossed, None if rows is None else rows[each])


def _refuse_other_tokens(rows: pd.DataFrame, layout: TokenLayout, name: str) -> None:
    if "label" not in rows:
        return
    for token, label in zip(rows["token"].tolist(), rows["label"].tolist(), strict=True):
        if layout.labels[token] != label:
            raise InputError(
                f"{name}: the table at= calls token {token} {label!r}, but here it is "
                f"{layout.labels[token]!r}; give the clips or texts that the table was made of, in "
                "its order."
            )
