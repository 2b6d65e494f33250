"""The mechanics of what was found: a third forward that keeps queries and keys of sinks' layers."""

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


def mechanics_of(found: Findings) -> pd.DataFrame | None:
    """``sink_mechanics`` of every sample's sinks, in their layers; None where there is no sink.

    Samples are recorded one at a time, so that one sample's queries and keys are held at most.
    """
    tables = []
    for sample, one in enumerate(found.data):
        sinks = found.sinks.loc[found.sinks["sample"] == sample].assign(sample=0)
        if sinks.empty:
            continue
        layers = tuple(sorted({int(layer) for layer in sinks["layer"]}))
        seen = one.record(found.subject, reducers=_reducers(layers))
        tables.append(sink_mechanics(seen, sinks).assign(sample=sample))
    if not tables:
        return None
    table = pd.concat(tables, ignore_index=True)
    table.attrs = {**tables[0].attrs, "samples": len(found.record)}
    return table


def _reducers(layers: tuple[int, ...]) -> list[Reducer]:
    return [
        SegmentAttention(layers=layers),
        RowEntropy(layers=layers),
        ArgmaxShare(layers=layers),
        Norms("v", layers=layers),
        Norms("resid_pre", layers=layers),
        Keep("q", layers=layers),
        Keep("k", layers=layers),
    ]
