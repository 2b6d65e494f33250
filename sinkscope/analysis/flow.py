"""Attention from segment to segment: who reads whom, and what is left. Depends on record."""

import numpy as np
import pandas as pd
import xarray as xr

from sinkscope.analysis.tables import bos_present, layers_of, make_table
from sinkscope.analysis.visibility import entropy_share
from sinkscope.glossary import SEGMENTS, paper_layer
from sinkscope.record import Record

__all__ = ["segment_attention"]


def segment_attention(record: Record, *, heads: bool = False) -> pd.DataFrame:
    """Share of each segment's attention that goes to each segment, a layer (and a head).

    The attention of a segment's queries is averaged over them and summed over the keys of the
    other segment. Rows need not sum to 1 (learned sinks, gated attention): ``missing`` is what no
    key receives.

    Args:
        record: one or several samples.
        heads: one row a head; otherwise the mean over heads.

    Returns:
        ``sample layer paper_layer`` (``head``) ``query_segment key_segment``, then ``attention``
        (share of a row, 0 to 1), ``visible_share`` (share of the pairs that the queries see: what
        attention that is even over pairs would give), ``missing``, ``entropy`` (nats, mean over
        the queries), ``entropy_share`` (of its largest, see ``visibility.entropy_share``; NaN where
        unknown or not recorded), ``bos_present``. Segments that a sample does not have give no
        row, nor do segments that the queries cannot see.

    Raises:
        SiteError: if the record holds no attention statistics.
    """
    sums = record["segment_sum"].transpose("sample", "layer", "head", "segment", "key")
    pairs = record["queries"].transpose("sample", "layer", "segment", "key")
    mass = sums.values.astype(np.float64)
    mass = mass if heads else mass.mean(2, keepdims=True)
    entropies = _entropies(record, layers_of(sums), heads=heads)
    rows = [
        frame
        for sample in range(len(record))
        for frame in _rows(record, sample, mass[sample], pairs.values[sample], entropies)
    ]
    table = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=_COLUMNS)
    table = table.sort_values(["sample", "layer", "head"], kind="stable", ignore_index=True)
    layer = np.asarray(layers_of(sums), np.int64)[table["layer"].to_numpy(np.int64)]
    table["layer"], table["paper_layer"] = layer, layer + paper_layer(0)
    table = table if heads else table.drop(columns="head")
    attrs = {"table": "segment_attention", "averaging": "none" if heads else "mean over heads"}
    return make_table(table, record, attrs)


_COLUMNS = [
    "sample",
    "layer",
    "paper_layer",
    "head",
    "query_segment",
    "key_segment",
    "attention",
    "visible_share",
    "missing",
    "entropy",
    "entropy_share",
    "bos_present",
]


def _rows(
    record: Record,
    sample: int,
    mass: np.ndarray,
    pairs: np.ndarray,
    entropies: list[np.ndarray],
) -> list[pd.DataFrame]:
    """One frame for each pair of segments of a sample; mass is [layer, head, segment, key]."""
    layout = record.layouts[sample]
    present = [s for s in SEGMENTS if s != "padding" and layout.mask(s).any()]
    length = len(layout)
    layer, head = (axis.ravel() for axis in np.indices(mass.shape[:2]))
    frames = []
    for query in present:
        place, rows = SEGMENTS.index(query), np.flatnonzero(layout.mask(query))
        share = mass[:, :, place, :length] / len(rows)
        missing = _without_rounding(1 - share[..., layout.is_real].sum(-1))
        seen = pairs[:, place, :length].astype(np.float64)
        entropy, entropy_part = (_mean(values[sample][..., rows]) for values in entropies)
        for key in present:
            keys = layout.mask(key)
            if not seen[:, keys].any():
                continue
            visible = seen[:, keys].sum(-1) / seen.sum(-1)
            columns = {
                "attention": share[..., keys].sum(-1).ravel(),
                "visible_share": visible[layer],
                "missing": missing.ravel(),
                "entropy": entropy.ravel(),
                "entropy_share": entropy_part.ravel(),
            }
            named = {"sample": sample, "layer": layer, "paper_layer": layer, "head": head}
            named |= {"query_segment": query, "key_segment": key, **columns}
            named["bos_present"] = bos_present(record)[sample]
            frames.append(pd.DataFrame(named, columns=_COLUMNS))
    return frames


def _without_rounding(missing: np.ndarray) -> np.ndarray:
    """What float32 sums leave over is nothing."""
    return np.where(np.abs(missing) < 1e-5, 0.0, missing)


def _entropies(record: Record, layers: list[int], *, heads: bool) -> list[np.ndarray]:
    """Entropy in nats and as a share, each [sample, layer, head or 1, query]."""
    if "entropy" not in record:
        sums = record["segment_sum"]
        shape = (len(record), len(layers), sums.sizes["head"] if heads else 1, sums.sizes["key"])
        return [np.full(shape, np.nan)] * 2
    both: list[xr.DataArray] = [record["entropy"], entropy_share(record)]
    dims = ("sample", "layer", "head", "query")
    values = [array.reindex(layer=layers).transpose(*dims).values for array in both]
    return values if heads else [array.mean(2, keepdims=True) for array in values]


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is known; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(-1)
    total = np.where(known, values, 0).sum(-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
