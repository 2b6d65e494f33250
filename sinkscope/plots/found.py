"""What the analysis found, as the figures need it: sinks of a layer, the layer to show first.

Depends on analysis and the record.
"""

import numpy as np
import pandas as pd

from sinkscope.analysis.attention import key_attention
from sinkscope.analysis.finding import find_sinks
from sinkscope.analysis.massive import find_massive_activations
from sinkscope.errors import InputError
from sinkscope.record import Record

__all__ = [
    "massive_here",
    "massive_words",
    "refuse_layer",
    "sinks_or_find",
    "strongest_layer",
    "tokens_of",
]


def sinks_or_find(record: Record, sinks: pd.DataFrame | None) -> pd.DataFrame:
    """The given table of ``find_sinks``, or that of its default thresholds."""
    return find_sinks(record) if sinks is None else sinks


def tokens_of(sinks: pd.DataFrame, *, sample: int, layer: int | None = None) -> list[int]:
    """The sink tokens of a sample, in one layer or in any, the most attended first."""
    here = sinks["sample"] == sample
    if layer is not None:
        here &= sinks["layer"] == layer
    order = sinks.loc[here].sort_values("alpha", ascending=False)["token"]
    return list(dict.fromkeys(map(int, order)))


def massive_here(
    record: Record, massive: pd.DataFrame | None, *, sample: int, layer: int
) -> pd.DataFrame:
    """The massive activations of one layer of one sample, found anew where none are given."""
    table = find_massive_activations(record) if massive is None else massive
    return table.loc[(table["sample"] == sample) & (table["layer"] == layer)]


def massive_words(table: pd.DataFrame) -> str:
    """How many massive activations a table holds, and from which ratio on they are massive."""
    ratio = table.attrs.get("ratio_threshold")
    limit = f" (|x| ≥ {ratio:g} × median)" if ratio else ""
    tokens = len(set(table["token"]))
    words = f"{tokens} token{'' if tokens == 1 else 's'}"
    return f"bold: massive on {words}{limit}" if tokens else f"none massive{limit}"


def strongest_layer(record: Record, *, sample: int, sinks: pd.DataFrame) -> int:
    """The layer in which an intermediate sink, else any sink, else any token draws most."""
    own = sinks.loc[sinks["sample"] == sample]
    intermediate = own.loc[own["kind"] == "intermediate"]
    for table in (intermediate, own):
        if len(table):
            return int(table["layer"].to_numpy()[table["alpha"].argmax()])
    alpha = key_attention(record).isel(sample=sample).mean("head")
    judged = alpha.where(record["queries"].isel(sample=sample).sum("segment") >= 8)
    largest = judged.max("key").fillna(-np.inf)
    return int(largest["layer"].values[int(largest.values.argmax())])


def refuse_layer(layer: int, layers: list[int], *, where: str) -> None:
    """Refuse a layer that was not recorded.

    Raises:
        InputError: naming the layers that there are.
    """
    if layer not in layers:
        there = ", ".join(map(str, layers))
        raise InputError(f"{where}: layer {layer} was not recorded; choose one of {there}.")
