"""What a sink carries and what its heads do, cell by cell; NaN where the record does not hold it.

Depends on record; numpy and xarray only. Cells are arrays of sample, layer position, token and
head (or key-value head), one entry a row of the table that is made.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool

from sinkscope.analysis.attention import key_attention
from sinkscope.analysis.heads import sink_heads
from sinkscope.analysis.visibility import entropy_share
from sinkscope.record import Record

__all__ = ["carried_columns", "head_columns"]

DEFAULT_THRESHOLD = 0.3
MIN_QUERIES = 8


def carried_columns(
    record: Record,
    layers: Sequence[int],
    cells: Sequence[np.ndarray],
    others: Bool[np.ndarray, "sample token"],
) -> dict[str, np.ndarray]:
    """Norms of value and entering state, as ratios to the median of the other tokens.

    Guo et al. (arXiv 2410.13835): a sink's value is drained and its residual state peaks.

    Args:
        record: one or several samples.
        layers: number of the layer at each layer position.
        cells: sample, layer position, token and key-value head.
        others: the tokens with which the sink is compared.

    Returns:
        ``value_norm_ratio``, of one key-value head, and ``residual_norm_ratio``, of the state that
        enters the layer: the one that leaves the layer before, unless ``resid_pre`` was recorded.
    """
    values, entering = _values(record), _entering(record)
    return {
        "value_norm_ratio": _ratio_at(values, layers, cells, others),
        "residual_norm_ratio": _ratio_at(entering, layers, cells[:3], others),
    }


def head_columns(
    record: Record,
    layers: Sequence[int],
    cells: Sequence[np.ndarray],
    thresholds: Mapping[Any, Any],
    *,
    dormant: float | int,
) -> dict[str, Any]:
    """Key attention of every head at the sink, and what the head does otherwise.

    Args:
        record: one or several samples.
        layers: number of the layer at each layer position.
        cells: sample, layer position, token and head.
        thresholds: those of the sinks (``threshold``, ``min_queries``), as far as known.
        dormant: key attention above which a head is called dormant.

    Returns:
        ``alpha``, ``sink_in_head``, ``argmax_share``, ``entropy_share``, ``dormant``.
    """
    sample, place, _, head = cells
    threshold = thresholds.get("threshold", DEFAULT_THRESHOLD)
    least = int(thresholds.get("min_queries", MIN_QUERIES))
    alpha, most, spread = np.full((3, len(sample)), np.nan)
    if "segment_sum" in record:
        alpha = _at(_by_token(key_attention(record)), layers, cells)
        row_heads = sink_heads(record, min_queries=least)
        largest = row_heads.set_index(["sample", "layer", "head"])["alpha"]
        wanted = zip(sample, np.array(layers, np.int64)[place], head, strict=True)
        most = largest.reindex(pd.MultiIndex.from_tuples(list(wanted), names=largest.index.names))
        most = most.to_numpy(float)
    if "entropy" in record:
        share = entropy_share(record).mean("query").expand_dims(token=1)
        spread = _at(
            share.transpose("sample", "layer", "token", "head"),
            layers,
            (sample, place, np.zeros_like(sample), head),
        )
    return {
        "alpha": alpha,
        "sink_in_head": _above(alpha, threshold),
        "argmax_share": _argmax_share(record, layers, cells),
        "entropy_share": spread,
        "dormant": _above(most, dormant),
    }


def _argmax_share(record: Record, layers: Sequence[int], cells: Sequence[np.ndarray]) -> np.ndarray:
    """Share of the queries that see the token and attend to it most."""
    if "argmax_count" not in record or "queries" not in record:
        return np.full(len(cells[0]), np.nan)
    seeing = record["queries"].sum("segment").astype(np.float64)
    share = record["argmax_count"].astype(np.float64) / seeing.where(seeing > 0)
    return _at(_by_token(share), layers, cells)


def _by_token(array: xr.DataArray) -> xr.DataArray:
    return array.rename(key="token").transpose("sample", "layer", "token", "head")


def _values(record: Record) -> xr.DataArray | None:
    if "value_norm" not in record:
        return None
    return record["value_norm"].transpose("sample", "layer", "token", "kv_head")


def _entering(record: Record) -> xr.DataArray | None:
    axes = ("sample", "layer", "token")
    if "resid_pre_norm" in record:
        return record["resid_pre_norm"].transpose(*axes)
    if "resid_pre" in record:
        states = record["resid_pre"].transpose(*axes, "feature").astype(np.float64)
        return states.isel(feature=0, drop=True).copy(data=np.linalg.norm(states.values, axis=-1))
    if "norm" not in record:
        return None
    leaving = record["norm"].transpose(*axes)
    return leaving.assign_coords(layer=leaving["layer"] + 1)


def _ratio_at(
    norms: xr.DataArray | None,
    layers: Sequence[int],
    cells: Sequence[np.ndarray],
    others: Bool[np.ndarray, "sample token"],
) -> np.ndarray:
    """The norms at the cells, over the median of the other tokens of the same layer (and head)."""
    if norms is None:
        return np.full(len(cells[0]), np.nan)
    own = _at(norms, layers, cells)
    among = xr.DataArray(others[:, : norms.sizes["token"]], dims=("sample", "token"))
    middle = norms.astype(np.float64).where(among).median("token").expand_dims(token=1)
    first = np.zeros_like(cells[2])
    return own / _at(middle.transpose(*norms.dims), layers, (*cells[:2], first, *cells[3:]))


def _at(array: xr.DataArray, layers: Sequence[int], cells: Sequence[np.ndarray]) -> np.ndarray:
    """The values at the cells, NaN in layers that the variable does not cover."""
    values = array.astype(np.float64).reindex(layer=list(layers)).values
    return values[tuple(cells)]


def _above(numbers: np.ndarray, threshold: float | int) -> pd.api.extensions.ExtensionArray:
    """Booleans, missing where the number is NaN."""
    return pd.array(
        [None if np.isnan(number) else bool(number > threshold) for number in numbers],
        dtype="boolean",
    )
