"""Learned sinks: what softmax gives to a logit of its own instead of to a token.

Depends on record.
"""

import numpy as np
import pandas as pd

from sinkscope.analysis.tables import bos_present, layers_of, make_table
from sinkscope.glossary import SEGMENTS, paper_layer
from sinkscope.record import Record

__all__ = ["learned_sinks"]

_COLUMNS = (
    *("sample", "layer", "paper_layer", "head", "query_segment", "queries"),
    *("share", "largest", "largest_token", "bos_present"),
)


def learned_sinks(record: Record) -> pd.DataFrame:
    """How much of their attention the queries of each segment give to a head's learned sink.

    A model that has one (gpt-oss) needs no token to rest on, so its tokens' key attention is lower
    than that of a model without: read ``find_sinks`` of the two side by side with this.

    Args:
        record: one or several samples of such a model.

    Returns:
        One row a sample, layer, head and segment of queries: ``sample layer paper_layer head
        query_segment queries``, then ``share`` (mean over the queries, 0 to 1), ``largest`` with
        ``largest_token`` (the query that gives most), and ``bos_present``.

    Raises:
        SiteError: if the record holds no learned sinks, as the model has none.
    """
    found = record["learned_sink"].transpose("sample", "layer", "head", "query")
    layers = np.asarray(layers_of(found), np.int64)
    frames = []
    for sample, layout in enumerate(record.layouts):
        for segment in SEGMENTS:
            queries = np.flatnonzero(layout.mask(segment) & layout.is_real)
            if len(queries):
                values = found.values[sample][..., queries].astype(np.float64)
                frames.append(_frame(values, sample, segment, queries, layers))
    columns = list(_COLUMNS)
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
    table["bos_present"] = np.asarray(bos_present(record))[table["sample"].to_numpy(np.int64)]
    order = ["sample", "layer", "head"]
    table = table.sort_values(order, kind="stable", ignore_index=True).reindex(columns=columns)
    return make_table(table, record, {"table": "learned_sinks"})


def _frame(
    values: np.ndarray, sample: int, segment: str, queries: np.ndarray, layers: np.ndarray
) -> pd.DataFrame:
    """The rows of one sample and segment; values are [layer, head, query]."""
    layer, head = (axis.ravel() for axis in np.indices(values.shape[:2]))
    number = layers[layer]
    return pd.DataFrame(
        {
            "sample": sample,
            "layer": number,
            "paper_layer": number + paper_layer(0),
            "head": head,
            "query_segment": segment,
            "queries": len(queries),
            "share": values.mean(-1).ravel(),
            "largest": values.max(-1).ravel(),
            "largest_token": queries[values.argmax(-1)].ravel(),
        }
    )
