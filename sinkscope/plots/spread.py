"""Labels side by side on a line: as near as can be to their places, never on top of each other.

Depends on numpy only.

Example:
    >>> spread([10.0, 11.0], [4.0, 4.0], low=0, high=100)
    [8.5, 12.5]
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["spread"]


def spread(
    places: Sequence[float | int],
    sizes: Sequence[float | int],
    *,
    low: float | int,
    high: float | int,
) -> list[float]:
    """Centres for labels of the given sizes, in their order, that do not overlap.

    Neighbours that would overlap move apart by equal amounts; labels stay between ``low`` and
    ``high`` where there is room for all of them.

    Args:
        places: wanted centres, ascending.
        sizes: extent of each label, in the same unit.
        low: where the line begins.
        high: where the line ends.

    Returns:
        The centres, least-squares near to ``places``.
    """
    if not len(places):
        return []
    extents = np.asarray(sizes, float)
    before = np.concatenate([[0.0], np.cumsum((extents[1:] + extents[:-1]) / 2)])
    starts = _pooled(np.asarray(places, float) - before)
    first = low + extents[0] / 2
    last = max(first, high - extents[-1] / 2 - before[-1])
    return (np.clip(starts, first, last) + before).tolist()


def _pooled(values: np.ndarray) -> np.ndarray:
    """The nearest sequence that never falls (pool adjacent violators)."""
    blocks: list[tuple[float, int]] = []
    for value in values.tolist():
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (right, n), (left, m) = blocks.pop(), blocks.pop()
            blocks.append(((left * m + right * n) / (m + n), m + n))
    return np.concatenate([np.full(n, value) for value, n in blocks])
