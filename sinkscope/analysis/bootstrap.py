"""How far a number would move with other clips: percentile bootstrap over clips. numpy only.

Clips are drawn with replacement, as often as there are clips. The draws are kept as weights (how
often each clip was drawn), so a statistic of sums over clips is one product of matrices. Where all
clips agree, the interval has no width: that says that none of them differs, not that no clip would.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from sinkscope.errors import InputError

__all__ = ["LEVEL", "bootstrap_interval", "bootstrap_weights"]

LEVEL = 0.95
"""Share of the draws that an interval covers."""


def bootstrap_weights(
    clips: int, *, draws: int = 2000, seed: int = 0
) -> Int[np.ndarray, "draw sample"]:
    """How often each clip is drawn, in each of ``draws`` resamples of as many clips.

    Raises:
        InputError: if there is no clip or no draw, or the seed is below 0.

    Examples:
        >>> bootstrap_weights(3, draws=4).sum(-1).tolist()
        [3, 3, 3, 3]
    """
    if seed < 0:
        raise InputError(f"bootstrap: the seed is {seed}; give a whole number from 0.")
    if clips < 1 or draws < 1:
        raise InputError(f"bootstrap: {draws} draws of {clips} clips; give at least one of each.")
    shares = np.full(clips, 1 / clips)
    return np.random.default_rng(seed).multinomial(clips, shares, size=draws)


def bootstrap_interval(
    statistic: Callable[[Float[np.ndarray, "draw sample"]], Float[np.ndarray, "draw number"]],
    weights: Int[np.ndarray, "draw sample"],
) -> tuple[
    Float[np.ndarray, " number"], Float[np.ndarray, " number"], Float[np.ndarray, " number"]
]:
    """The statistic on all clips, and its percentile interval over the draws.

    Draws in which a statistic is undefined (NaN) are left out of its interval. Where it is
    undefined on all clips, or there is one clip only, the interval is NaN: one clip says nothing
    of others.

    Args:
        statistic: from weights of the clips, one row a draw, to numbers, one row a draw.
        weights: what ``bootstrap_weights`` gave.

    Returns:
        Point, low end and high end of each number.
    """
    clips = weights.shape[-1]
    point = statistic(np.ones((1, clips)))[0]
    drawn = statistic(weights.astype(np.float64))
    low, high = np.full(len(point), np.nan), np.full(len(point), np.nan)
    for i in np.flatnonzero(~np.isnan(point)) if clips > 1 else ():
        kept = drawn[~np.isnan(drawn[:, i]), i]
        low[i], high[i] = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return point, low, high
