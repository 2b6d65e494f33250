"""Which tokens of a layout show one picture, and where on it. Depends on the layout and numpy.

A picture's tokens, or those of one frame of a film, have a row and a column. A film's frames follow
each other: the next one begins where the seconds change, where other tokens lie between, or where
the places start again.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout

__all__ = ["Patches", "patches_of"]


@dataclass(frozen=True, eq=False)
class Patches:
    """The tokens that show one picture.

    Attributes:
        tokens: their places in the sample.
        rows: of each token.
        columns: of each token.
        shape: rows and columns of the grid.
        segment: their stream.
        item: which picture or film.
        frame: which of the item's frames, counted from 0, and how many there are.
        seconds: start and end of that frame; NaN where nobody knows.
    """

    tokens: Int[np.ndarray, " token"]
    rows: Int[np.ndarray, " token"]
    columns: Int[np.ndarray, " token"]
    shape: tuple[int, int]
    segment: str
    item: int
    frame: tuple[int, int]
    seconds: tuple[float, float]

    def grid(self, values: Float[np.ndarray, " value"]) -> Float[np.ndarray, "row column"]:
        """Values of the sample's tokens where they lie; NaN where no token shows the picture."""
        found = np.full(self.shape, np.nan)
        found[self.rows, self.columns] = values[self.tokens]
        return found


def patches_of(
    layout: TokenLayout,
    *,
    segment: str | None = None,
    item: int | None = None,
    view: int | None = None,
) -> list[Patches]:
    """The tokens of one picture, or of each frame of one film, in order.

    Args:
        layout: of one sample.
        segment: ``"image"`` or ``"video"``; what has rows and columns if left out.
        item: which picture or film, by its number in the layout; the sample's first if left out.
        view: which view of it; the most detailed one if left out.

    Raises:
        InputError: nothing has rows and columns, or not this; both pictures and films have.

    Example:
        >>> place = np.arange(2.0)
        >>> layout = TokenLayout.of(["image"] * 2, ["i0", "i1"],
        ...     descriptors={"row": 0 * place, "column": place})
        >>> patches_of(layout)[0].grid(np.array([5.0, 7.0])).tolist()
        [[5.0, 7.0]]
    """
    row, column = (_told(layout, name) for name in ("row", "column"))
    placed = ~np.isnan(row) & ~np.isnan(column)
    streams = list(dict.fromkeys(np.array(layout.segments, object)[placed].tolist()))
    segment = _one(segment, streams, "segment")
    if segment is None:
        raise InputError("no token of this sample has a row and a column; it shows no picture.")
    placed &= layout.mask(segment)
    for name, wanted in (("item", item), ("view", view)):
        told = _told(layout, name)
        there = sorted({int(one) for one in told[placed & ~np.isnan(told)]})
        chosen = _number(wanted, there, name)
        placed &= (told == chosen) if chosen is not None else True
        item = chosen if name == "item" else item
    tokens = np.flatnonzero(placed)
    rows, columns = row[tokens].astype(np.int64), column[tokens].astype(np.int64)
    shape = (int(rows.max()) + 1, int(columns.max()) + 1)
    parts = np.split(np.arange(len(tokens)), _turns(layout, tokens, rows * shape[1] + columns))
    return [
        Patches(
            tokens[part],
            rows[part],
            columns[part],
            shape,
            segment,
            item or 0,
            (number, len(parts)),
            (float(layout.seconds[tokens[part[0]], 0]), float(layout.seconds[tokens[part[0]], 1])),
        )
        for number, part in enumerate(parts)
    ]


def _told(layout: TokenLayout, name: str) -> Float[np.ndarray, " token"]:
    return np.asarray(layout.descriptors.get(name, np.full(len(layout), np.nan)), float)


def _one(wanted: str | None, there: list[str], name: str) -> str | None:
    if wanted is None and len(there) > 1:
        raise InputError(f"both {' and '.join(there)} have rows and columns; choose one {name}.")
    if wanted is not None and wanted not in there:
        raise InputError(f"no token of {wanted} has a row and a column; {there or 'none'} have.")
    return wanted or (there[0] if there else None)


def _number(wanted: int | None, there: list[int], name: str) -> int | None:
    """The number that was asked for; the first item, or the last (most detailed) view, if none."""
    if wanted is not None and wanted not in there:
        raise InputError(
            f"there is no {name} {wanted} in this sample; there are {there or 'none'}."
        )
    if wanted is not None or not there:
        return wanted
    return there[0] if name == "item" else there[-1]


def _turns(
    layout: TokenLayout, tokens: Int[np.ndarray, " token"], places: Int[np.ndarray, " token"]
) -> Int[np.ndarray, " turn"]:
    """Where the next frame of a film begins."""
    start = np.nan_to_num(layout.seconds[tokens, 0], nan=-1.0)
    between = np.array(
        [
            any(layout.segments[i] != layout.segments[a] for i in range(a + 1, b))
            for a, b in zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True)
        ],
        bool,
    )
    return np.flatnonzero((np.diff(start) != 0) | (np.diff(places) <= 0) | between) + 1
