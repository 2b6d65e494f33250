"""Patches that a processor hands over square by square, and encoders that reorder the squares."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from sinkscope.subjects.multimodal.table import StreamTokens

__all__ = ["Grid", "in_squares"]

Grid = tuple[int, int, int]
"""Frames, rows and columns."""


def in_squares(
    grids: Sequence[Grid],
    merge: int | Sequence[int],
    times: Sequence[Float[np.ndarray, "_ 2"]],
    *,
    window: int | None = None,
) -> StreamTokens:
    """The patches of pictures or films in the order in which an encoder's blocks see them.

    A frame's patches come in squares of ``merge`` by ``merge``, the squares row by row. An encoder
    with windows puts the squares of a window side by side.

    Args:
        grids: frames, rows and columns of patches of each item.
        merge: side of a square in patches, of all items or of each.
        times: start and end in seconds of each frame of patches of each item.
        window: side of a window in squares; None without windows.

    Example:
        >>> known = [np.zeros((1, 2))]
        >>> in_squares([(1, 2, 4)], 2, known).column.tolist()
        [0.0, 1.0, 0.0, 1.0, 2.0, 3.0, 2.0, 3.0]
    """
    sides = [merge] * len(grids) if isinstance(merge, int) else list(merge)
    parts = []
    for item, (grid, side) in enumerate(zip(grids, sides, strict=True)):
        frame, row, column = np.indices(grid).reshape(3, -1)
        keys = [column % side, row % side, column // side, row // side]
        if window is not None:
            span = side * window
            keys += [column // span, row // span]
        order = np.lexsort([*keys, frame])
        own = StreamTokens(
            np.asarray(times[item], float)[frame],
            row.astype(float),
            column.astype(float),
            np.full(len(frame), item, np.int64),
        )
        parts.append(own.take(order))
    return StreamTokens.joined(parts)
