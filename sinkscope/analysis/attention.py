"""Key attention and sink rate, of any attention map or of a record.

Depends on record. Source: the score of Gu et al. (arXiv 2410.10781), with the mean taken over the
queries that can see the key, so that it also holds with padding, with sliding windows, and for
encoders, where the divisor is the number of real queries.
"""

from typing import Any

import numpy as np
import xarray as xr

from sinkscope.analysis.tables import is_token
from sinkscope.errors import InputError, SiteError
from sinkscope.record import Record

__all__ = ["as_array", "key_attention", "sink_rate"]


def key_attention(pattern: Any, *, visible: Any = None) -> Any:
    """Mean attention that each key receives from the queries that can see it.

    ``alpha[k] = sum_q A[q, k] / |{q : q sees k}|``. Causal attention without padding makes the
    divisor ``T - k`` (k from 0). Weights at pairs that are not visible are left out of the sum.

    Args:
        pattern: attention weights ``[..., query, key]`` as a numpy array, a torch tensor or an
            xarray DataArray with the dims ``query`` and ``key``; or a Record.
        visible: which query sees which key, booleans that broadcast to ``pattern``; causal if
            None, but for the ``record["pattern"]`` of an encoder, whose queries see every key. A
            padding query sees nothing. In a DataArray, NaN pairs are never visible, which is how a
            Record pads samples of unequal length. Not for a Record, which carries it.

    Returns:
        ``alpha[..., key]``, float64, NaN where no query sees the key: a DataArray for a DataArray,
        the dims ``sample layer head key`` for a Record, a numpy array otherwise.

    Raises:
        InputError: if the shapes do not fit, or causality is meant but the map is not square.

    Examples:
        >>> uniform = np.tril(np.ones((3, 3))) / np.array([[1], [2], [3]])
        >>> key_attention(uniform).round(3)
        array([0.611, 0.417, 0.333])
    """
    if isinstance(pattern, Record):
        if visible is not None:
            raise InputError("key_attention: a Record says itself what is visible; leave it out.")
        return _of_record(pattern)
    if isinstance(pattern, xr.DataArray):
        return _of_labelled(pattern, visible)
    return _of_array(as_array(pattern), visible)


def sink_rate(alpha: Any, *, threshold: float = 0.3) -> Any:
    """Share of the heads whose key attention is above the threshold, strictly.

    The mean of this over samples and layers, times 100, is the percentage of Gu et al. (arXiv
    2410.10781, threshold 0.3). It falls when the number of tokens or the threshold grows: report
    both.

    Args:
        alpha: key attention ``[..., head, key]``; a DataArray may have its ``head`` anywhere.
        threshold: what a head's key attention must pass.

    Returns:
        The share ``[..., key]``, 0 to 1; NaN where no head has a value.

    Raises:
        InputError: if there is no head axis.

    Examples:
        >>> sink_rate(np.array([[0.9, 0.1], [0.3, 0.1]]))
        array([0.5, 0. ])
    """
    if isinstance(alpha, xr.DataArray):
        if "head" not in alpha.dims:
            raise InputError(f"sink_rate: alpha has the dims {alpha.dims}; it needs a head.")
        known = alpha.notnull()
        share = (alpha > threshold).sum("head") / known.sum("head").where(known.any("head"))
        return share.rename("sink_rate")
    values = as_array(alpha)
    if values.ndim < 2:
        raise InputError(f"sink_rate: alpha has shape {values.shape}; give [..., head, key].")
    known = ~np.isnan(values)
    heads = known.sum(-2)
    passed = (values > threshold).sum(-2)
    return np.divide(passed, heads, out=np.full(heads.shape, np.nan), where=heads > 0)


def as_array(values: Any) -> np.ndarray:
    """A numpy array of anything array-like; torch tensors are taken from their device.

    Examples:
        >>> as_array([1, 2]).tolist()
        [1, 2]
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values if values.dtype.is_floating_point is False else values.double()
        return values.numpy()
    return np.asarray(values)


def _of_array(pattern: np.ndarray, visible: Any) -> np.ndarray:
    if pattern.ndim < 2:
        raise InputError(
            f"key_attention: the map has shape {pattern.shape}; give [..., query, key]."
        )
    seen = _visible(pattern.shape[-2], pattern.shape[-1], visible)
    try:
        seen = np.broadcast_to(seen, np.broadcast_shapes(seen.shape, pattern.shape))
    except ValueError as error:
        raise InputError(
            f"key_attention: visible has shape {seen.shape}, the map {pattern.shape}; "
            "make visible broadcast to the map."
        ) from error
    return _mean_over_queries(pattern, seen, axis=-2)


def _of_labelled(pattern: xr.DataArray, visible: Any) -> xr.DataArray:
    missing = {"query", "key"} - set(map(str, pattern.dims))
    if missing:
        raise InputError(
            f"key_attention: the map has the dims {pattern.dims}; it needs query and key."
        )
    if visible is None and pattern.attrs.get("attention") == "bidirectional":
        visible = pattern.notnull()
    if not isinstance(visible, xr.DataArray):
        seen = _visible(pattern.sizes["query"], pattern.sizes["key"], visible)
        dims = [str(dim) for dim in pattern.dims if dim not in ("query", "key")]
        names = [*dims, "query", "key"][-seen.ndim :]
        visible = xr.DataArray(seen, dims=names)
    seen = visible.broadcast_like(pattern).transpose(*pattern.dims) & pattern.notnull()
    axis = list(pattern.dims).index("query")
    alpha = _mean_over_queries(pattern.values, seen.values, axis=axis)
    kept = pattern.isel(query=0, drop=True)
    return kept.astype(np.float64).copy(data=alpha).rename("key_attention")


def _of_record(record: Record) -> xr.DataArray:
    if record.provenance.get("n_heads") == 0:
        raise SiteError(
            f"key_attention: {record.provenance.get('subject', 'this model')} has no attention, so "
            "nothing there is an attention sink; look at its massive activations and cosines."
        )
    sums, queries = record["segment_sum"], record["queries"]
    total = sums.astype(np.float64).sum("segment", skipna=True)
    count = queries.sum("segment", skipna=True).astype(np.float64)
    real = is_token(record)[:, : total.sizes["key"]]
    count = count.where(xr.DataArray(real, dims=("sample", "key")), 0)
    alpha = total / count.where(count > 0)
    return alpha.transpose("sample", "layer", "head", "key").rename("key_attention")


def _visible(n_queries: int, n_keys: int, visible: Any) -> np.ndarray:
    if visible is not None:
        return as_array(visible).astype(bool)
    if n_queries != n_keys:
        raise InputError(
            f"key_attention: {n_queries} queries and {n_keys} keys are not a whole causal map; "
            "say with visible[query, key] which query sees which key."
        )
    return np.tri(n_queries, dtype=bool)


def _mean_over_queries(pattern: np.ndarray, seen: np.ndarray, *, axis: int) -> np.ndarray:
    total = np.where(seen, pattern, 0).sum(axis, dtype=np.float64)
    count = seen.sum(axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
