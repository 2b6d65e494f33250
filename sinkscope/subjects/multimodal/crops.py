"""Pictures that an encoder sees twice: cut into square crops, and once as a whole (HD transform).

The crops make one grid of tokens over the picture, and padding on its right and below is left out.
The whole picture, which shrinks to one crop, makes a coarser grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from sinkscope.subjects.multimodal.table import StreamTokens

__all__ = ["Picture", "patches_of", "tokens_of"]


@dataclass(frozen=True)
class Picture:
    """A picture as it is cut.

    Attributes:
        rows: rows of crops.
        columns: columns of crops.
        mask: true where a crop holds some of the picture, the whole picture first; what follows
            the crops fills up the batch.
    """

    rows: int
    columns: int
    mask: Bool[np.ndarray, "crop row column"]

    @property
    def side(self) -> int:
        """Rows (and columns) of patches of a crop."""
        return self.mask.shape[1]

    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens of the crops: two by two patches each, padding left out."""
        crops = self.mask[1 : 1 + self.rows * self.columns, ::2, ::2]
        down = crops[:: self.columns, :, 0].sum()
        across = crops[: self.columns, 0, :].sum()
        return int(down), int(across)


def tokens_of(pictures: Sequence[Picture]) -> StreamTokens:
    """The tokens of pictures: the crops' rows, a mark, the rows of the whole.

    Every row ends with a mark. Only the crops' grid has rows and columns: the whole picture's grid
    is another one, and would be taken for part of it.

    Example:
        >>> seen = np.ones((2, 2, 4), bool)
        >>> tokens_of([Picture(1, 1, seen[:, :, :2])]).row.tolist()
        [0.0, nan, nan, nan, nan]
    """
    parts = []
    for item, picture in enumerate(pictures):
        down, across = picture.grid()
        whole = (picture.side + 1) // 2
        blank = np.full(1 + whole * (whole + 1), np.nan)
        row, column = np.indices((down, across)).astype(float)
        parts.append(
            _of(
                item,
                np.concatenate([_marked(row), blank]),
                np.concatenate([_marked(column), blank]),
            )
        )
    return StreamTokens.joined(parts)


def patches_of(pictures: Sequence[Picture], *, crops: int) -> list[StreamTokens]:
    """What the encoder runs over: for each picture ``crops`` samples of patches, without padding.

    Args:
        pictures: the pictures of a forward.
        crops: how many crops every picture is filled up to, the whole among them.
    """
    found = []
    for item, picture in enumerate(pictures):
        for number in range(crops):
            own = picture.mask[number]
            row, column = (axis[own].astype(float) for axis in np.indices(own.shape))
            crop = number - 1
            inside = 0 <= crop < picture.rows * picture.columns
            down, across = divmod(crop, picture.columns) if inside else (np.nan, np.nan)
            found.append(_of(item, row + down * picture.side, column + across * picture.side))
    return found


def _marked(grid: Float[np.ndarray, "row column"]) -> Float[np.ndarray, " token"]:
    """A grid row by row, with a mark at the end of each."""
    return np.pad(grid, ((0, 0), (0, 1)), constant_values=np.nan).reshape(-1)


def _of(item: int, row: np.ndarray, column: np.ndarray) -> StreamTokens:
    blank = np.full((len(row), 2), np.nan)
    return StreamTokens(blank, row, column, np.full(len(row), item, np.int64))
