"""Queries and keys for a record without a model, so that its sinks have mechanics."""

import numpy as np
import xarray as xr

from sinkscope.record import Record

FEATURES = 8


def with_queries(record: Record, *, seed: int = 0) -> Record:
    """The record with random q and k, NaN behind each sample's end as in a recorded one.

    Every layer's size is its own, so that a layer drawn at another's place shows.
    """
    rng = np.random.default_rng(seed)
    sizes = record["segment_sum"].sizes
    tokens = max(len(layout) for layout in record.layouts)
    layers = record["segment_sum"]["layer"].values
    size = 1 + np.arange(len(layers))[None, :, None, None, None]
    more = {}
    for site, axis, heads in (("q", "head", sizes["head"]), ("k", "kv_head", 2)):
        shape = (len(record), len(layers), heads, tokens, FEATURES)
        values = (rng.normal(0.5, 1, shape) * size).astype(np.float32)
        for sample, layout in enumerate(record.layouts):
            values[sample, :, :, len(layout) :] = np.nan
        dims = ("sample", "layer", axis, "token", "feature")
        more[site] = xr.DataArray(values, dims=dims, coords={"layer": layers})
    kept = {name: record[name] for name in record if name != "length"}
    return Record.of(kept | more, record.layouts, record.provenance, clips=record.clips)
