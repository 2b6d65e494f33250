"""How many keys a query sees, and so what even attention would give. Depends on record."""

import numpy as np
import xarray as xr

from sinkscope.analysis.tables import is_token
from sinkscope.record import Record

__all__ = ["entropy_share", "even_attention", "visible_keys"]


def entropy_share(record: Record) -> xr.DataArray:
    """Entropy of every attention row divided by the log of the number of keys that it sees.

    1 is even attention, 0 is all on one key: ``H(A_i) / log i`` of Guo et al. (arXiv 2410.13835).
    NaN for a query that sees one key, and where the number of keys is not known
    (:func:`visible_keys`).

    Returns:
        Dims ``sample layer head query``, dimensionless.
    """
    entropy = record["entropy"].transpose("sample", "layer", "head", "query")
    keys = visible_keys(record).reindex(layer=entropy["layer"].values)
    return entropy / np.log(keys.where(keys > 1))


def visible_keys(record: Record) -> xr.DataArray:
    """Number of keys that every query sees, as far as the numbers of queries a key tell.

    They tell it for causal attention, whole or with a sliding window, where key k of T is seen by
    ``min(T - k, window)`` queries, and for attention without a mask. NaN elsewhere.

    Returns:
        Dims ``sample layer query``.
    """
    queries = record["queries"].sum("segment").transpose("sample", "layer", "key")
    real = is_token(record)
    keys = np.full(queries.shape, np.nan)
    for sample, place in np.ndindex(queries.shape[:2]):
        tokens = np.flatnonzero(real[sample])
        keys[sample, place, tokens] = _keys(queries.values[sample, place, tokens])
    return queries.astype(np.float64).copy(data=keys).rename(key="query")


def even_attention(record: Record) -> xr.DataArray:
    """Key attention that even attention would give: what a sink has to be compared with.

    ``(1 / (T - k)) * sum_{q >= k} 1 / (q + 1)`` for whole causal attention (k and q from 0): 0.34
    for the first of 8 tokens, 0.08 for that of 60. NaN where :func:`visible_keys` is.

    Returns:
        Dims ``sample layer key``.
    """
    keys = visible_keys(record).rename(query="key")
    queries = record["queries"].sum("segment").transpose("sample", "layer", "key").values
    even = np.full(keys.shape, np.nan)
    real = is_token(record)
    for sample, place in np.ndindex(keys.shape[:2]):
        tokens = np.flatnonzero(real[sample])
        even[sample, place, tokens] = _even(
            keys.values[sample, place, tokens], queries[sample, place, tokens]
        )
    return keys.copy(data=even)


def _even(keys: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Mean of 1 / keys over the queries that see each key: those that follow it, or all."""
    first = np.where(keys[0] == len(keys), 0, np.arange(len(keys)))
    share = np.concatenate([[0.0], np.cumsum(1 / keys)])
    return (share[first + queries] - share[first]) / queries


def _keys(queries: np.ndarray) -> np.ndarray:
    """Keys that each query sees, from the queries that see each key; NaN if it is neither."""
    length = len(queries)
    left = np.arange(length, 0, -1)
    if length and (queries == length).all():
        return queries.astype(np.float64)
    if length and (queries == np.minimum(left, queries[0])).all():
        return np.minimum(left[::-1], queries[0]).astype(np.float64)
    return np.full(length, np.nan)
