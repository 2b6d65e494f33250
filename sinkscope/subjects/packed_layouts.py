"""Layouts of packed sequences: several clips or images, one after another, without padding.

Example:
    >>> layout = packed_audio_layout([6, 2], chunk=4, halvings=1)
    >>> layout.labels, layout.seconds[:, 0].tolist()
    (('0f0', '0f1', '0f2', '1f0'), [0.0, 0.02, 0.04, 0.0])
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout

__all__ = ["MEL_RATE", "packed_audio_layout", "packed_vision_layout"]

MEL_RATE = 100
"""Log-mel frames a second, in all of these encoders."""


def packed_audio_layout(lengths: Sequence[int], *, chunk: int, halvings: int) -> TokenLayout:
    """The layout of the frames of several clips, each called by its clip and its place in it.

    A clip's log-mel frames are cut into chunks before the convolutions, so that the last frame of
    each may cover less than the others.

    Args:
        lengths: log-mel frames of each clip.
        chunk: log-mel frames of a chunk.
        halvings: convolutions that take two by two.

    Raises:
        InputError: if there is no clip, or one without frames.
    """
    if not len(lengths) or min(lengths) < 1:
        raise InputError(f"Clips of {list(lengths)} log-mel frames: each needs one at least.")
    edges = [_frames_of(length, chunk=chunk, step=2**halvings) for length in lengths]
    clip = np.repeat(np.arange(len(edges)), [len(each) for each in edges])
    places = np.concatenate([np.arange(len(each)) for each in edges])
    labels = [_called("f", int(c), len(edges), int(i)) for c, i in zip(clip, places, strict=True)]
    return TokenLayout.of(["audio"] * len(labels), labels, seconds=np.concatenate(edges) / MEL_RATE)


def packed_vision_layout(
    grids: Int[np.ndarray, "image 3"],
    merges: Sequence[int],
    *,
    window: int | None = None,
    order: Int[np.ndarray, " cell"] | None = None,
) -> TokenLayout:
    """The layout of the patches of several images or videos, in the order of the blocks.

    Patches lie frame by frame, and in a frame square by square of those that the model will merge;
    an encoder with windows puts the squares of a window side by side. The descriptors ``item``,
    ``frame``, ``row`` and ``column`` say where a patch is. What has one frame is an image.

    Args:
        grids: frames, rows and columns of patches of each image or video.
        merges: side of such a square in each.
        window: side of a window in squares; None without windows.
        order: the order of the squares, where the caller gave it to the model.

    Raises:
        InputError: if a grid is not made of whole squares, or the order is not one of all.

    Example:
        >>> layout = packed_vision_layout(np.array([[1, 2, 4]]), [2])
        >>> layout.descriptors["column"].tolist()
        [0.0, 1.0, 0.0, 1.0, 2.0, 3.0, 2.0, 3.0]
    """
    parts = [
        _squares(number, grid, merge, window)
        for number, (grid, merge) in enumerate(zip(grids, merges, strict=True))
    ]
    places = np.concatenate([part[0] for part in parts])
    if order is not None:
        squares = np.concatenate([part[1] for part in parts])
        if sorted(order.tolist()) != list(range(len(squares))):
            raise InputError(
                f"window_index orders {len(order)} squares of patches, the grids have "
                f"{len(squares)}; give each of them once."
            )
        places = squares[order].reshape(-1, 4)
    image, frame, row, column = places.T
    many, frames = len(grids), grids[:, 0]
    labels = [
        f"{i if many > 1 else ''}{f't{t}' if frames[i] > 1 else ''}r{y}c{x}"
        for i, t, y, x in places.tolist()
    ]
    segments = np.where(frames[image] > 1, "video", "image").tolist()
    named = {"item": image, "frame": frame, "row": row, "column": column}
    return TokenLayout.of(
        segments, labels, descriptors={name: at.astype(float) for name, at in named.items()}
    )


def _frames_of(length: int, *, chunk: int, step: int) -> np.ndarray:
    """First and last log-mel frame (without it) of every frame of a clip."""
    edges = []
    for first in range(0, length, chunk):
        last = min(first + chunk, length)
        starts = np.arange(first, last, step)
        edges.append(np.stack([starts, np.minimum(starts + step, last)], axis=1))
    return np.concatenate(edges).astype(float)


def _called(letter: str, clip: int, clips: int, place: int) -> str:
    return f"{clip if clips > 1 else ''}{letter}{place}"


def _squares(
    number: int, grid: Int[np.ndarray, " 3"], merge: int, window: int | None
) -> tuple[Int[np.ndarray, "patch 4"], Int[np.ndarray, "cell inside 4"]]:
    """Image, frame, row and column of the patches: in the blocks' order, and square by square."""
    frames, rows, columns = (int(size) for size in grid)
    if rows % merge or columns % merge:
        raise InputError(
            f"An image of {rows} by {columns} patches is not made of squares of {merge} by "
            f"{merge}; give the grid that the processor made."
        )
    t, i, j = np.indices((frames, rows // merge, columns // merge)).reshape(3, -1)
    inside = np.indices((merge, merge)).reshape(2, -1)
    cells = np.stack(
        [
            np.full((len(t), merge * merge), number),
            np.repeat(t[:, None], merge * merge, axis=1),
            i[:, None] * merge + inside[0],
            j[:, None] * merge + inside[1],
        ],
        axis=-1,
    )
    if window is None:
        return cells.reshape(-1, 4), cells
    order = np.lexsort((j, i, j // window, i // window, t))
    return cells[order].reshape(-1, 4), cells
