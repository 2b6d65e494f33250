"""Distances between shares that sum to 1. numpy only.

Example:
    >>> one, other = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    >>> float(total_variation(one, other)), float(jensen_shannon(one, other))
    (1.0, 1.0)
"""

import numpy as np
from jaxtyping import Float

__all__ = ["jensen_shannon", "total_variation"]


def total_variation(
    one: Float[np.ndarray, "*place expert"], other: Float[np.ndarray, "*place expert"]
) -> Float[np.ndarray, "*place"]:
    """Half the sum of absolute differences: the share that must move, 0 to 1."""
    return np.asarray(np.abs(one - other).sum(-1) / 2)


def jensen_shannon(
    one: Float[np.ndarray, "*place expert"], other: Float[np.ndarray, "*place expert"]
) -> Float[np.ndarray, "*place"]:
    """Jensen-Shannon distance: root of the divergence in bits, 0 to 1."""
    middle = (one + other) / 2
    divergence = (_relative(one, middle) + _relative(other, middle)) / 2
    return np.asarray(np.sqrt(np.clip(divergence, 0.0, 1.0)))


def _relative(shares: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Relative entropy in bits; a share of 0 adds nothing."""
    ratio = np.divide(shares, middle, out=np.ones_like(shares), where=shares > 0)
    return np.asarray((shares * np.log2(ratio)).sum(-1))
