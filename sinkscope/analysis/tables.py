"""How every table of tokens is made: the same first columns, and what was asked, in ``attrs``.

Depends on record and layout. A table states its thresholds, the model, and whether BOS was there,
so that it can be read (and judged) away from the code that made it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from sinkscope.errors import InputError
from sinkscope.glossary import BOS, TABLE_COLUMNS, paper_layer
from sinkscope.record import Record

__all__ = [
    "as_ranges",
    "bos_present",
    "check_number",
    "check_whole",
    "is_token",
    "layers_of",
    "make_table",
    "references",
    "token_table",
]

_CARRIED = ("subject", "prepend_bos", "massive_ratio", "model_hash", "d_model", "n_layers")


def token_table(
    record: Record,
    cells: Sequence[np.ndarray],
    layers: Sequence[int],
    columns: Mapping[str, Any],
    *,
    attrs: Mapping[str, Any],
) -> pd.DataFrame:
    """A table with one row for each of ``cells``.

    Args:
        record: where the cells come from.
        cells: sample, layer position and token of every row, as ``np.nonzero`` gives them.
        layers: number of the layer at each layer position.
        columns: what the table says of each cell, after ``TABLE_COLUMNS``.
        attrs: thresholds and whatever else the reader must know.
    """
    sample, place, token = (np.asarray(axis, np.int64) for axis in cells)
    layer = np.asarray(layers, np.int64)[place]
    head: dict[str, Any] = {"sample": sample, "layer": layer, "paper_layer": paper_layer(0) + layer}
    head["token"] = token
    for name in ("segment", "label"):
        words = [getattr(layout, f"{name}s") for layout in record.layouts]
        head[name] = pd.Series(
            [words[s][t] for s, t in zip(sample, token, strict=True)], dtype=object
        )
    seconds = [record.layouts[s].seconds[t] for s, t in zip(sample, token, strict=True)]
    start_end = np.array(seconds, float).reshape(-1, 2)
    head |= {"start": start_end[:, 0], "end": start_end[:, 1]}
    table = pd.DataFrame({name: head[name] for name in TABLE_COLUMNS} | dict(columns))
    table["bos_present"] = np.array(bos_present(record), bool)[sample]
    return make_table(table, record, attrs)


def make_table(table: pd.DataFrame, record: Record, attrs: Mapping[str, Any]) -> pd.DataFrame:
    """The table with ``attrs``: model, BOS or reference, lengths of the record, then the given."""
    carried = {key: record.provenance.get(key) for key in _CARRIED}
    table.attrs = {
        **carried,
        "bos_present": bos_present(record),
        "reference": [layout.labels[layout.reference] for layout in record.layouts],
        "tokens": [len(layout) for layout in record.layouts],
        "samples": len(record),
        **attrs,
    }
    return table


def bos_present(record: Record) -> list[bool]:
    """Whether each sample has a BOS, anywhere."""
    return [BOS in layout.segments for layout in record.layouts]


def layers_of(array: xr.DataArray) -> list[int]:
    """The 0-based numbers of the layers that a variable covers."""
    return [int(layer) for layer in array["layer"].values]


def is_token(record: Record) -> np.ndarray:
    """True where a sample has a token that is not padding, shape (sample, token)."""
    longest = max((len(layout) for layout in record.layouts), default=0)
    real = np.zeros((len(record), longest), bool)
    for row, layout in zip(real, record.layouts, strict=True):
        row[: len(layout)] = layout.is_real
    return real


def references(record: Record) -> np.ndarray:
    """Each sample's reference token, shape (sample,)."""
    return np.array([layout.reference for layout in record.layouts], np.int64)


def as_ranges(numbers: Iterable[int]) -> str:
    """Whole numbers in words: runs are joined.

    Examples:
        >>> as_ranges([5, 1, 2, 3])
        '1-3, 5'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def check_number(
    name: str, value: int | float, *, above: float = 0.0, up_to: float = float("inf")
) -> None:
    """Refuse a threshold outside ``above < value <= up_to``.

    Raises:
        InputError: if the value is outside, or not a number.
    """
    if not above < value <= up_to:
        limit = "" if up_to == float("inf") else f" and at most {up_to:g}"
        raise InputError(f"{name} is {value}; give a number above {above:g}{limit}.")


def check_whole(name: str, value: object, *, least: int) -> None:
    """Refuse what is no whole number from ``least`` on.

    Raises:
        InputError: if the value is below, or of another kind.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:  # pyright: ignore[reportOperatorIssue]
        raise InputError(f"{name} is {value!r}; give a whole number from {least}.")
