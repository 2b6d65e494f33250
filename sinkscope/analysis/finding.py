"""find_sinks: the attention sinks of a record, and which other signs agree. Depends on record."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from sinkscope.analysis.criteria import (
    bos_cosine,
    massive_ratio,
    ratio_to_median,
    value_norm_ratio,
)
from sinkscope.analysis.descriptors import descriptor_columns
from sinkscope.analysis.tables import layers_of, references, token_table
from sinkscope.analysis.verdict import SinkAttention, how_close, sink_attention
from sinkscope.analysis.visibility import even_attention
from sinkscope.glossary import BOS
from sinkscope.record import Record

__all__ = ["find_sinks"]


def find_sinks(
    record: Record,
    *,
    threshold: float = 0.3,
    min_heads: float = 0.5,
    min_queries: int = 8,
    ratio: int | float | None = None,
    cosine: float = 0.8,
    drain: float = 0.5,
) -> pd.DataFrame:
    """Every attention sink of a record: one row a token and layer.

    A token is a sink in a layer if its key attention, averaged over heads, is above ``threshold``,
    or if at least ``min_heads`` of the heads have it above ``threshold``. A key that few queries
    see gets a large share of each of them: below ``min_queries`` it is never counted. In a text of
    fewer than ten tokens, even attention alone gives the first more than 0.3: see ``even_alpha``.

    Args:
        record: one or several samples.
        threshold: key attention to pass, strictly (0.3: Gu et al., arXiv 2410.10781).
        min_heads: share of heads, 0 to 1, that is enough by itself.
        min_queries: number of queries that must see the token.
        ratio: |x| from this multiple of the median on is massive; None takes the subject's own,
            else 1000.
        cosine: a token whose cosine to BOS is above this is a twin of BOS.
        drain: a value norm below this share of the other tokens' median is drained (our choice:
            Guo et al., arXiv 2410.13835, give no number).

    Returns:
        ``TABLE_COLUMNS``, then ``kind`` ("bos" or "intermediate"), ``alpha`` (mean over heads),
        ``sink_rate``, ``max_head_alpha``, ``even_alpha`` (what even attention would give),
        ``queries``; the criteria ``attention`` (true in every row), ``massive`` (in the state that
        leaves the layer), ``massive_entering`` (in the one that enters it, which is what attention
        reads), ``twin`` (of the state that leaves) and ``value_drain``, missing where the record
        does not hold what they need; their numbers
        ``ratio``, ``cosine_to_bos``, ``value_norm_ratio``; what the token is (``loudness_db
        silence motion phoneme``); ``ratio_threshold`` and ``bos_present``. None found gives no
        row, and ``attrs`` say how close it came: ``describe(table)`` puts it in words.

    Raises:
        InputError: if a threshold is outside its range.
        SiteError: if the record holds no attention statistics.
    """
    found = sink_attention(
        record, threshold=threshold, min_heads=min_heads, min_queries=min_queries
    )
    used, source = massive_ratio(record, ratio)
    cells = np.nonzero(found.is_sink.values)
    columns = _attention_columns(record, found, cells)
    columns |= _other_criteria(record, found, cells, ratio=used, cosine=cosine, drain=drain)
    columns |= descriptor_columns(record, cells[0], cells[2])
    attrs = {
        "table": "sinks",
        "threshold": threshold,
        "min_heads": min_heads,
        "min_queries": min_queries,
        "ratio_threshold": used,
        "ratio_source": source,
        "cosine": cosine,
        "drain": drain,
        **how_close(record, found),
    }
    return token_table(record, cells, layers_of(found.alpha), columns, attrs=attrs)


def _attention_columns(
    record: Record, found: SinkAttention, cells: tuple[np.ndarray, ...]
) -> dict[str, Any]:
    segments = [record.layouts[s].segments[t] for s, t in zip(cells[0], cells[2], strict=True)]
    return {
        "kind": pd.Series(
            ["bos" if segment == BOS else "intermediate" for segment in segments], dtype=object
        ),
        "alpha": found.alpha.values[cells],
        "sink_rate": found.rate.values[cells],
        "max_head_alpha": found.largest_head.values[cells],
        "even_alpha": even_attention(record).values[cells],
        "queries": found.queries.values[cells],
        "attention": pd.array(np.ones(len(cells[0]), bool), dtype="boolean"),
    }


def _other_criteria(
    record: Record,
    found: SinkAttention,
    cells: tuple[np.ndarray, ...],
    *,
    ratio: float,
    cosine: float,
    drain: float,
) -> dict[str, Any]:
    measures = {
        "ratio": (("top_value", "median"), ratio_to_median),
        "cosine_to_bos": (("bos_cosine",), bos_cosine),
        "value_norm_ratio": (("value_norm",), value_norm_ratio),
    }
    numbers = {}
    for name, (needs, measure) in measures.items():
        held = all(variable in record for variable in needs)
        numbers[name] = _at(measure(record) if held else None, found.alpha, cells)
    held = "top_value" in record and "median" in record
    entering = _at(_entering(ratio_to_median(record)) if held else None, found.alpha, cells)
    other = cells[2] != references(record)[cells[0]]
    return {
        "massive": _verdict(numbers["ratio"], numbers["ratio"] >= ratio),
        "massive_entering": _verdict(entering, entering >= ratio),
        "twin": _verdict(numbers["cosine_to_bos"], (numbers["cosine_to_bos"] > cosine) & other),
        "value_drain": _verdict(numbers["value_norm_ratio"], numbers["value_norm_ratio"] < drain),
        **numbers,
        "ratio_threshold": np.full(len(cells[0]), ratio),
    }


def _entering(leaving: xr.DataArray) -> xr.DataArray:
    """What leaves a layer, numbered by the layer that it enters."""
    return leaving.assign_coords(layer=leaving["layer"] + 1)


def _at(
    values: xr.DataArray | None, like: xr.DataArray, cells: tuple[np.ndarray, ...]
) -> np.ndarray:
    """The values at the cells, NaN in layers that the variable does not cover."""
    if values is None:
        return np.full(len(cells[0]), np.nan)
    return values.reindex(layer=like["layer"].values).values[cells]


def _verdict(numbers: np.ndarray, verdict: np.ndarray) -> pd.api.extensions.ExtensionArray:
    """Booleans, missing where the number is NaN."""
    return pd.array(
        [None if np.isnan(n) else bool(v) for n, v in zip(numbers, verdict, strict=True)],
        dtype="boolean",
    )
