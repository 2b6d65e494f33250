"""Pictures that an encoder sees twice: cut into square crops, and once as a whole (HD transform).

The crops make one grid of tokens over the picture (view 1), and padding on its right and below is
left out. The whole picture, shrunk to one crop, makes a grid of its own (view 0).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from sinkscope.subjects.multimodal.table import StreamTokens

__all__ = ["Picture", "patches_of", "tokens_of"]

WHOLE, DETAIL = 0.0, 1.0


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

    Every row ends with a mark, which shows no place.

    Example:
        >>> seen = np.ones((2, 2, 2), bool)
        >>> tokens_of([Picture(1, 1, seen)]).row.tolist()
        [0.0, nan, nan, 0.0, nan]
    """
    parts = []
    for item, picture in enumerate(pictures):
        side = (picture.side + 1) // 2
        parts += [
            _grid(item, picture.grid(), view=DETAIL),
            _of(item, np.full(1, np.nan), np.full(1, np.nan), view=np.nan),
            _grid(item, (side, side), view=WHOLE),
        ]
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
            if number == 0:
                found.append(_of(item, row, column, view=WHOLE))
            elif number <= picture.rows * picture.columns:
                down, across = divmod(number - 1, picture.columns)
                row, column = row + down * picture.side, column + across * picture.side
                found.append(_of(item, row, column, view=DETAIL))
            else:
                found.append(_of(item, row * np.nan, column * np.nan, view=np.nan))
    return found


def _grid(item: int, shape: tuple[int, int], *, view: float) -> StreamTokens:
    """A grid row by row, with a mark at the end of each."""
    row, column = (
        np.pad(axis.astype(float), ((0, 0), (0, 1)), constant_values=np.nan).reshape(-1)
        for axis in np.indices(shape)
    )
    return _of(item, row, column, view=view)


def _of(item: int, row: np.ndarray, column: np.ndarray, *, view: float) -> StreamTokens:
    blank = np.full((len(row), 2), np.nan)
    items = np.full(len(row), item, np.int64)
    return StreamTokens(blank, row, column, items, np.full(len(row), float(view)))
