"""Sinks over layers: one row for each token that is a sink anywhere. Depends on record."""

from typing import Any

import numpy as np
import pandas as pd

from sinkscope.analysis.finding import find_sinks
from sinkscope.analysis.tables import as_ranges
from sinkscope.errors import InputError
from sinkscope.glossary import TABLE_COLUMNS
from sinkscope.record import Record

__all__ = ["sink_summary"]

_CRITERIA = ("massive", "twin", "value_drain")
_COUNTS = ("first_layer", "last_layer", "n_layers")
_OF_TOKEN = ("kind", "loudness_db", "silence", "motion", "phoneme")


def sink_summary(sinks: Record | pd.DataFrame, **thresholds: Any) -> pd.DataFrame:
    """Every token that is a sink in some layer, with the layers: one row a sample and token.

    Args:
        sinks: what ``find_sinks`` returned, or a record.
        thresholds: for a record, the parameters of ``find_sinks``.

    Returns:
        ``TABLE_COLUMNS``, where ``layer`` is the one of the largest ``alpha``; then ``kind``,
        ``layers`` as a text ("2-5, 7", 0-based), ``first_layer``, ``last_layer``, ``n_layers``,
        ``alpha`` and ``sink_rate`` (the largest over layers), ``massive_layers``, ``twin_layers``
        and ``value_drain_layers`` (those of the sink's layers where that criterion agrees), the
        descriptors, and ``bos_present``. The most attended token comes first.

    Raises:
        InputError: if the table is not one of ``find_sinks``, or thresholds are given with it.
    """
    if isinstance(sinks, Record):
        sinks = find_sinks(sinks, **thresholds)
    elif thresholds:
        raise InputError(
            f"sink_summary: {', '.join(thresholds)} cannot be applied to a finished table; "
            "give them to find_sinks."
        )
    if "kind" not in sinks or "sink_rate" not in sinks:
        raise InputError(
            f"sink_summary: a table with the columns {', '.join(map(str, sinks))} is not one of "
            "find_sinks; give its result or a Record."
        )
    groups = sinks.groupby(["sample", "token"], sort=True)
    rows = [_row(group) for _, group in groups]
    columns = [*TABLE_COLUMNS, *_row_names()]
    table = pd.DataFrame(rows, columns=columns)
    kinds = {name: sinks[name].dtype for name in columns if name in sinks}
    table = table.astype(kinds | dict.fromkeys(_COUNTS, np.int64))
    table = table.sort_values(["sample", "alpha"], ascending=[True, False], ignore_index=True)
    table.attrs = {**sinks.attrs, "table": "sink_summary"}
    return table


def _row(group: pd.DataFrame) -> dict[str, Any]:
    strongest = group.loc[group["alpha"].idxmax()]
    layers = group["layer"].tolist()
    agreed = {
        f"{name}_layers": as_ranges(group.loc[group[name].fillna(False).astype(bool), "layer"])
        for name in _CRITERIA
    }
    return {
        **{name: strongest[name] for name in (*TABLE_COLUMNS, *_OF_TOKEN, "bos_present")},
        "layers": as_ranges(layers),
        "first_layer": min(layers),
        "last_layer": max(layers),
        "n_layers": len(layers),
        "alpha": group["alpha"].max(),
        "sink_rate": group["sink_rate"].max(),
        **agreed,
    }


def _row_names() -> list[str]:
    over_layers = ["layers", *_COUNTS, "alpha", "sink_rate"]
    criteria = [f"{name}_layers" for name in _CRITERIA]
    return ["kind", *over_layers, *criteria, *_OF_TOKEN[1:], "bos_present"]
