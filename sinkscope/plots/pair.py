"""What figures of two models share: their two colours, their names, and what to show of them.

Depends on analysis and the record.
"""

import pandas as pd

from sinkscope.analysis.comparison import Comparison
from sinkscope.errors import InputError
from sinkscope.plots.style import ACCENT, plain
from sinkscope.record import Record

__all__ = ["AFTER", "BEFORE", "clip_words", "pair_words", "refuse_unlike", "shown", "sinks_of"]

BEFORE = "#8C8C8C"
"""Colour of the model before: grey."""

AFTER = ACCENT
"""Colour of the model after."""

LONGEST = 32


def pair_words(before: str, after: str) -> str:
    """Both models, by name.

    Example:
        >>> pair_words("tiny-avsr", "tiny-avsr-decorrelated")
        'before: tiny-avsr, after: tiny-avsr-decorrelated'
    """
    return f"before: {plain(before, longest=LONGEST)}, after: {plain(after, longest=LONGEST)}"


def clip_words(table: pd.DataFrame) -> str:
    """Over how many clips a table of a comparison goes."""
    clips = table.attrs["samples"]
    return "one clip" if clips == 1 else f"{clips} clips"


def shown(found: Comparison) -> tuple[int, int] | None:
    """Sample and layer in which the attention to a sink moves most; other sinks before BOS.

    None where there is no sink before or after.
    """
    for kind in ("intermediate", "bos"):
        own = found.sinks.loc[found.sinks["kind"] == kind]
        if len(own):
            place = int(own["alpha_change"].abs().to_numpy().argmax())
            return int(own["sample"].to_numpy()[place]), int(own["layer"].to_numpy()[place])
    return None


def sinks_of(found: Comparison) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The sinks of either model, as ``find_sinks`` gives them."""
    tables = []
    for side, gone in (("before", "new"), ("after", "lost")):
        own = found.sinks.loc[found.sinks["status"] != gone]
        tables.append(own.assign(alpha=own[f"alpha_{side}"]))
    return tables[0], tables[1]


def refuse_unlike(before: Record, after: Record, sample: int, *, where: str) -> None:
    """Refuse two records of which a sample has other tokens.

    Raises:
        InputError: naming the sample.
    """
    for record in (before, after):
        if not 0 <= sample < len(record):
            raise InputError(f"{where}: no sample {sample}; a record has 0 to {len(record) - 1}.")
    one, other = before.layouts[sample], after.layouts[sample]
    if one.labels != other.labels or one.segments != other.segments:
        raise InputError(
            f"{where}: sample {sample} has other tokens before and after; compare(before, after) "
            "says where."
        )
