"""The mechanics of what was found: a third forward that keeps queries and keys."""

import pandas as pd

from sinkscope.analysis.mechanics import sink_mechanics
from sinkscope.interventions.findings import Findings
from sinkscope.probes.reducers import (
    ArgmaxShare,
    Keep,
    Norms,
    Reducer,
    RowEntropy,
    SegmentAttention,
)

__all__ = ["mechanics_of"]

REDUCERS: tuple[Reducer, ...] = (
    SegmentAttention(),
    RowEntropy(),
    ArgmaxShare(),
    Norms("v"),
    Norms("resid_pre"),
    Keep("q"),
    Keep("k"),
)


def mechanics_of(found: Findings) -> pd.DataFrame | None:
    """``sink_mechanics`` of every sample's sinks in all layers; None where there is no sink.

    Samples are recorded one at a time, so that one sample's queries and keys are held at most.
    """
    tables = []
    for sample, one in enumerate(found.data):
        sinks = found.sinks.loc[found.sinks["sample"] == sample].assign(sample=0)
        if sinks.empty:
            continue
        seen = one.record(found.subject, reducers=REDUCERS)
        tables.append(sink_mechanics(seen, sinks, everywhere=True).assign(sample=sample))
    if not tables:
        return None
    table = pd.concat(tables, ignore_index=True)
    table.attrs = {**tables[0].attrs, "samples": len(found.record)}
    return table
