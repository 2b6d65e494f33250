"""Is a token a sink? Key attention, sink rate and number of queries, judged. Depends on record.

Example:
    >>> sorted(field for field in SinkAttention.__dataclass_fields__)
    ['alpha', 'is_sink', 'judged', 'largest_head', 'queries', 'rate']
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from sinkscope.analysis.attention import key_attention, sink_rate
from sinkscope.analysis.tables import check_number, is_token
from sinkscope.record import Record

__all__ = ["SinkAttention", "how_close", "sink_attention"]

_CELLS = ("sample", "layer", "token")


@dataclass(frozen=True, eq=False)
class SinkAttention:
    """What decides whether a token is a sink, dims ``sample layer token``.

    Attributes:
        alpha: key attention, mean over heads.
        rate: share of heads whose key attention is above the threshold.
        largest_head: key attention of the head that has the most.
        queries: number of queries that see the token.
        judged: whether enough queries see it.
        is_sink: whether it is judged and passes.
    """

    alpha: xr.DataArray
    rate: xr.DataArray
    largest_head: xr.DataArray
    queries: xr.DataArray
    judged: xr.DataArray
    is_sink: xr.DataArray


def sink_attention(
    record: Record, *, threshold: float = 0.3, min_heads: float = 0.5, min_queries: int = 8
) -> SinkAttention:
    """Key attention, sink rate and verdict for every token; see :func:`find_sinks`."""
    check_number("threshold", threshold, up_to=1.0)
    check_number("min_heads", min_heads, up_to=1.0)
    check_number("min_queries", min_queries)
    heads = key_attention(record)
    alpha, rate = _cells(heads.mean("head")), _cells(sink_rate(heads, threshold=threshold))
    queries = _cells(record["queries"].sum("segment").astype(np.int64))
    real = xr.DataArray(is_token(record)[:, : alpha.sizes["token"]], dims=("sample", "token"))
    judged = (queries >= min_queries) & real
    passes = (alpha > threshold) | (rate >= min_heads)
    largest = _cells(heads.max("head"))
    return SinkAttention(alpha, rate, largest, queries, _cells(judged), _cells(judged & passes))


def _cells(array: xr.DataArray) -> xr.DataArray:
    """The array with its keys called tokens, dims ``sample layer token``."""
    array = array.rename(key="token") if "key" in array.dims else array
    return array.transpose(*_CELLS)


def how_close(record: Record, found: SinkAttention) -> dict[str, Any]:
    """How near the record came to a sink, for ``attrs``.

    The largest key attention and sink rate among the tokens that were judged, and where.
    """
    close: dict[str, Any] = {"judged": int(found.judged.sum())}
    for name, values in (("alpha", found.alpha), ("sink_rate", found.rate)):
        judged = np.where(found.judged.values, values.values, -np.inf)
        sample, place, token = np.unravel_index(int(judged.argmax()), judged.shape)
        largest = float(judged[sample, place, token])
        where = {
            "sample": int(sample),
            "layer": int(values["layer"].values[place]),
            "token": int(token),
            "label": record.layouts[int(sample)].labels[int(token)],
        }
        close[f"largest_{name}"] = largest if np.isfinite(largest) else None
        close[f"largest_{name}_at"] = where if np.isfinite(largest) else None
    return close
