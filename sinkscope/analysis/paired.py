"""Changes of numbers that the same clips have before and after: means, intervals, effect sizes.

Every clip is its own control: the interval is that of the mean of the clips' differences, and the
effect size is that mean over the standard deviation of the differences (Cohen's d of paired
samples, often called d_z). numpy only.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from sinkscope.analysis.bootstrap import bootstrap_interval

__all__ = ["CHANGE", "paired_change"]

CHANGE = ["before", "after", "change", "low", "high", "effect_size", "clips"]
"""Columns of a paired change."""

_ROUNDING = 1e-6
"""Share of a change under which the clips' differences from it are rounding of float32."""


def paired_change(
    before: Float[np.ndarray, "sample number"],
    after: Float[np.ndarray, "sample number"],
    weights: Int[np.ndarray, "draw sample"],
) -> pd.DataFrame:
    """How far each number moves, over the clips that have it before and after.

    Args:
        before: a row a clip; NaN where a clip does not have the number.
        after: the same clips in the same order.
        weights: what ``bootstrap_weights`` gave.

    Returns:
        One row a number: ``before after`` (means over clips), ``change`` (after - before), ``low
        high`` (95 % percentile interval over clips; NaN for one clip), ``effect_size`` (mean over
        standard deviation of the differences; 0 where nothing moves, NaN for one clip and where
        all clips move by the same), ``clips`` (that have the number twice).

    Examples:
        >>> weights = np.array([[1, 1], [2, 0], [0, 2]])
        >>> paired_change(np.array([[1.0], [3.0]]), np.array([[2.0], [6.0]]), weights).round(2)
           before  after  change   low  high  effect_size  clips
        0     2.0    4.0     2.0  1.05  2.95         1.41      2
    """
    known = np.isfinite(before) & np.isfinite(after)
    first, then = (np.where(known, values, 0.0) for values in (before, after))
    clips = known.sum(0)

    def mean(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        count = drawn @ known
        empty = np.full(count.shape, np.nan)
        return np.divide(drawn @ values, count, out=empty, where=count > 0)

    change, low, high = bootstrap_interval(lambda drawn: mean(then - first, drawn), weights)
    alone = clips < 2
    every = np.ones((1, len(known)))
    means = [mean(values, every)[0] for values in (first, then)]
    columns = {
        "before": means[0],
        "after": means[1],
        "change": change,
        "low": np.where(alone, np.nan, low),
        "high": np.where(alone, np.nan, high),
        "effect_size": _effect_size(then - first, known),
        "clips": clips,
    }
    return pd.DataFrame(columns, columns=CHANGE)


def _effect_size(moved: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Mean over standard deviation (of n - 1) of the differences that are known."""
    sizes = np.full(moved.shape[1], np.nan)
    for i, own in enumerate(known.T):
        differences = moved[own, i]
        if len(differences) < 2:
            continue
        deviation = differences.std(ddof=1)
        if not differences.any():
            sizes[i] = 0.0
        elif deviation > _ROUNDING * abs(differences.mean()):
            sizes[i] = differences.mean() / deviation
    return sizes
