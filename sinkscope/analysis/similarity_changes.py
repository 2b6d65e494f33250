"""Cosine to BOS before and after: token by token, and as distributions. Depends on record."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from sinkscope.analysis.criteria import bos_cosine
from sinkscope.analysis.paired import paired_change
from sinkscope.analysis.tables import is_token, layers_of, references, token_table
from sinkscope.record import Record

__all__ = ["QUANTILES", "similarity_changes", "similarity_summary"]

QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
"""Quantiles of the cosines, by the name of their column."""


def similarity_changes(before: Record, after: Record) -> pd.DataFrame:
    """Cosine of every token to BOS (or to the reference token) before and after.

    The reference itself is left out: its cosine is 1.

    Args:
        before: needs ``bos_cosine``.
        after: of the same tokens.

    Returns:
        ``TABLE_COLUMNS``, then ``cosine_before cosine_after cosine_change`` (of resid_post),
        ``bos_present``.
    """
    values = bos_cosine(before)
    length = values.sizes["token"]
    others = is_token(before)[:, :length] & (references(before)[:, None] != np.arange(length))
    cells = np.nonzero(np.broadcast_to(others[:, None, :], values.shape))
    one = values.values[cells].astype(np.float64)
    other = bos_cosine(after).values[cells].astype(np.float64)
    columns = {"cosine_before": one, "cosine_after": other, "cosine_change": other - one}
    attrs = {"table": "similarity_changes"}
    return token_table(before, cells, layers_of(values), columns, attrs=attrs)


def similarity_summary(
    similarity: pd.DataFrame, *, cosine: float | int, weights: Int[np.ndarray, "draw sample"]
) -> pd.DataFrame:
    """How the cosines to BOS are distributed in every layer, before and after.

    Args:
        similarity: what ``similarity_changes`` returned.
        cosine: above it a token is a twin of BOS.
        weights: what ``bootstrap_weights`` gave.

    Returns:
        One row a layer and segment, and for each layer a first one over all segments (``segment``
        "all"): ``layer paper_layer segment tokens``; ``<quantile>_before <quantile>_after`` over
        the tokens of all clips (5, 25, 50, 75 and 95 %); ``twins_before twins_after`` (a clip);
        ``cos2_before cos2_after`` (mean cos² over a clip's tokens, mean over clips), its ``change
        low high effect_size`` and ``clips``.
    """
    every = similarity.assign(segment="all")
    rows = [
        _row(group, cosine, weights)
        for table in (every, similarity)
        for _, group in table.groupby(["layer", "segment"], sort=False)
    ]
    table = pd.DataFrame(rows)
    if rows:
        table = table.sort_values("layer", kind="stable", ignore_index=True)
    table.attrs = {**similarity.attrs, "table": "similarity_summary", "cosine": cosine}
    return table


def _row(group: pd.DataFrame, cosine: float | int, weights: np.ndarray) -> dict[str, Any]:
    clips = weights.shape[1]
    row = {name: group[name].iloc[0] for name in ("layer", "paper_layer", "segment")}
    row["tokens"] = len(group)
    own = group["sample"].to_numpy()
    counts = np.bincount(own, minlength=clips)
    squares = []
    for side in ("before", "after"):
        values = group[f"cosine_{side}"].to_numpy()
        found = np.quantile(values, list(QUANTILES.values()))
        row |= {f"{name}_{side}": q for name, q in zip(QUANTILES, found, strict=True)}
        row[f"twins_{side}"] = float((values > cosine).sum() / (counts > 0).sum())
        sums = np.bincount(own, values**2, minlength=clips)
        empty = np.full(clips, np.nan)
        squares.append(np.divide(sums, counts, out=empty, where=counts > 0)[:, None])
    moved = paired_change(squares[0], squares[1], weights).iloc[0].to_dict()
    row |= {f"cos2_{side}": moved.pop(side) for side in ("before", "after")}
    return row | moved | {"clips": int(moved["clips"])}
