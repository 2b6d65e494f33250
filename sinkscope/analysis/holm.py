"""Many tests at once: Holm's correction. numpy only."""

import numpy as np
from jaxtyping import Float

__all__ = ["holm"]


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """The p of each test, corrected for all of them; NaN stays NaN and does not count.

    Holm 1979: the i-th smallest of m is multiplied by m - i + 1, and never below an earlier one.

    Examples:
        >>> holm(np.array([0.03, 0.01, np.nan, 0.04])).tolist()
        [0.06, 0.03, nan, 0.06]
    """
    found = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    scaled = p[order] * np.arange(len(order), 0, -1)
    found[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return found
