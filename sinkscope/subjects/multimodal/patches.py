"""The patches of pictures and films in the order in which an encoder runs over them. Numpy only."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from sinkscope.errors import InputError
from sinkscope.subjects.multimodal.table import StreamTokens

__all__ = ["patches_in_squares"]


def patches_in_squares(
    grids: Sequence[tuple[int, int, int]],
    merge: int,
    times: Sequence[np.ndarray] | None = None,
    *,
    window: int | None = None,
) -> StreamTokens:
    """Patches frame by frame, and in a frame square by square of those that are merged later.

    Args:
        grids: frames, rows and columns of patches of each picture or film.
        merge: patches on a side of such a square.
        times: start and end in seconds of each frame, shape (frame, 2); None for pictures.
        window: squares on a side of a window, where an encoder with windows puts the squares of
            each side by side.

    Raises:
        InputError: if a grid is not made of whole squares.

    Example:
        >>> patches_in_squares([(1, 2, 4)], 2).column.tolist()
        [0.0, 1.0, 0.0, 1.0, 2.0, 3.0, 2.0, 3.0]
    """
    parts = []
    for i, grid in enumerate(grids):
        frame, row, column = _squares(grid, merge, window)
        known = np.full((grid[0], 2), np.nan) if times is None else times[i]
        item = np.full(len(row), i, np.int64)
        parts.append(StreamTokens(known[frame], row.astype(float), column.astype(float), item))
    return StreamTokens.joined(parts)


def _squares(
    grid: tuple[int, int, int], merge: int, window: int | None
) -> tuple[Int[np.ndarray, " patch"], Int[np.ndarray, " patch"], Int[np.ndarray, " patch"]]:
    """Frame, row and column of each patch."""
    frames, rows, columns = grid
    if rows % merge or columns % merge:
        raise InputError(
            f"A grid of {rows} by {columns} patches is not made of squares of {merge} by {merge}; "
            "give the grid that the model's processor made."
        )
    frame, up, left = np.indices((frames, rows // merge, columns // merge)).reshape(3, -1)
    if window is not None:
        order = np.lexsort((left, up, left // window, up // window, frame))
        frame, up, left = frame[order], up[order], left[order]
    inner_row, inner_column = np.indices((merge, merge)).reshape(2, -1)
    row, column = up[:, None] * merge + inner_row, left[:, None] * merge + inner_column
    return np.repeat(frame, merge**2), row.reshape(-1), column.reshape(-1)
