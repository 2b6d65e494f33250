"""LLaVA-OneVision. Formulas read in transformers 5.23.

A picture that is alone in its sample is seen twice: as a whole (view 0), and in tiles that together
show it in detail (view 1), where a token ends every row. Of several pictures in a sample each is
seen once, in the middle of a square. A film's frames are halved in both directions, and one token
ends it.
"""

from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from typing import Any

import numpy as np
from jaxtyping import Float

from sinkscope.errors import InputError
from sinkscope.subjects.multimodal.films import film_times
from sinkscope.subjects.multimodal.table import Composite, Given, Stream, StreamTokens, Turns

__all__ = ["COMPOSITES"]

COARSER = 1.1
"""A detailed view that has this many times the allowed side is made smaller."""

WHOLE, DETAIL = 0, 1

Size = tuple[int, int]


def _side(given: Given) -> int:
    """Rows, and columns, of patches of what the encoder sees at once."""
    vision = given.config.vision_config
    return int(vision.image_size) // int(vision.patch_size)


def _sizes(given: Given) -> list[Size]:
    """Height and width of each picture."""
    sizes = given.needed("image_sizes", "image").reshape(-1, 2).tolist()
    return [(int(height), int(width)) for height, width in sizes]


def _tiled(given: Given, pictures: int) -> list[bool]:
    """Whether each picture is seen in detail: where it is alone in its sample."""
    numbers = given.inputs.get("batch_num_images")
    if numbers is None:
        return [True] * pictures
    found = [number == 1 for number in numbers.tolist() for _ in range(number)]
    if len(found) != pictures:
        raise InputError(
            f"batch_num_images counts {len(found)} pictures, but image_sizes has {pictures}; give "
            "what the model's own processor made of one conversation."
        )
    return found


def _tiles(size: Size, given: Given) -> Size:
    """Rows and columns of tiles in which a picture is seen.

    Of the shapes that the model knows, that which keeps most of the picture's pixels, and of these
    the smallest.
    """
    height, width = size

    def kept(shape: Sequence[int]) -> tuple[int, int]:
        scale = min(shape[1] / width, shape[0] / height)
        pixels = min(int(width * scale) * int(height * scale), width * height)
        return pixels, pixels - shape[0] * shape[1]

    best = max(given.config.image_grid_pinpoints, key=kept)
    tile = int(given.config.vision_config.image_size)
    return best[0] // tile, best[1] // tile


def _bars(size: Size, grid: Size) -> Size:
    """Rows above (and below) and columns left (and right) of the picture that show nothing."""
    (height, width), (rows, columns) = size, grid
    if width / height > columns / rows:
        return (rows - int(round(height * (columns / width), 7))) // 2, 0
    return 0, (columns - int(round(width * (rows / height), 7))) // 2


def _most(given: Given) -> int:
    """The detailed view has no more tokens than this many tiles."""
    said = str(given.config.vision_aspect_ratio)
    most = said.removeprefix("anyres_max_")
    if not most.isdecimal():
        raise InputError(
            f"LLaVA-OneVision: vision_aspect_ratio is {said!r}; how pictures are laid out is known "
            "for anyres_max_9 and its like."
        )
    return int(most)


def _detail(size: Size, given: Given) -> Size:
    """Rows and columns of tokens of the detailed view."""
    side, tiles = _side(given), _tiles(size, given)
    grid = (side * tiles[0], side * tiles[1])
    above, left = _bars(size, grid)
    rows, columns = grid[0] - 2 * above, grid[1] - 2 * left
    ratio = sqrt(rows * columns / (_most(given) * side**2))
    return (rows, columns) if ratio <= COARSER else (int(rows // ratio), int(columns // ratio))


def _grid(item: int, shape: Size, *, view: int | None = None, ends: bool = False) -> StreamTokens:
    """A grid of tokens; with ``ends``, one more token after each row, that shows no place."""
    rows, columns = shape
    row, column = np.indices((rows, columns + ends)).reshape(2, -1).astype(float)
    end = column == columns
    row[end], column[end] = np.nan, np.nan
    return StreamTokens(
        np.full((len(row), 2), np.nan),
        row,
        column,
        np.full(len(row), item, np.int64),
        None if view is None else np.full(len(row), float(view)),
    )


def _end(item: int) -> StreamTokens:
    """The token that ends a picture or a film."""
    nowhere = np.full(1, np.nan)
    return StreamTokens(np.full((1, 2), np.nan), nowhere, nowhere, np.full(1, item, np.int64))


def _image(given: Given) -> StreamTokens:
    side, sizes, parts = _side(given), _sizes(given), []
    for item, (size, tiled) in enumerate(zip(sizes, _tiled(given, len(sizes)), strict=True)):
        if tiled:
            parts.append(_grid(item, (side, side), view=WHOLE))
            parts.append(_grid(item, _detail(size, given), view=DETAIL, ends=True))
        else:
            parts += [_grid(item, (side, side), view=WHOLE), _end(item)]
    return StreamTokens.joined(parts)


def _films(given: Given) -> Size:
    """Films of a forward and frames of each."""
    pixels = given.inputs.get("pixel_values_videos")
    if pixels is None:
        raise InputError(
            "LLaVA-OneVision: how many frames a film has is known from pixel_values_videos alone; "
            "give them to the forward, or to generate."
        )
    return int(pixels.shape[0]), int(pixels.shape[1])


def _video(given: Given) -> StreamTokens:
    films, frames = _films(given)
    side = ceil(_side(given) / 2)
    parts = []
    for item in range(films):
        times = film_times(given, item, frames=frames)
        film = StreamTokens.of_grids([(frames, side, side)], [times])
        of_film = np.full(len(film), item, np.int64)
        parts.append(StreamTokens(film.seconds, film.row, film.column, of_film))
        parts.append(_end(item))
    return StreamTokens.joined(parts)


def _tile(item: int, size: Size, tile: Size, given: Given) -> StreamTokens:
    """One tile of the detailed view, where it lies in the picture; its bars show no place."""
    side, tiles = _side(given), _tiles(size, given)
    grid = (side * tiles[0], side * tiles[1])
    above, left = _bars(size, grid)
    whole = _grid(item, (side, side), view=DETAIL)
    row, column = whole.row + tile[0] * side - above, whole.column + tile[1] * side - left
    outside = (row < 0) | (row >= grid[0] - 2 * above)
    outside |= (column < 0) | (column >= grid[1] - 2 * left)
    row[outside], column[outside] = np.nan, np.nan
    return StreamTokens(whole.seconds, row, column, whole.item, whole.view)


def _image_frames(called: Mapping[str, Any], given: Given) -> list[StreamTokens]:
    """What the encoder runs over: each picture as a whole, then its tiles, row by row."""
    _refuse_unknown(given, "image")
    side, sizes, parts = _side(given), _sizes(given), []
    for item, (size, tiled) in enumerate(zip(sizes, _tiled(given, len(sizes)), strict=True)):
        parts.append(_grid(item, (side, side), view=WHOLE))
        if tiled:
            rows, columns = _tiles(size, given)
            parts += [_tile(item, size, (i, j), given) for i in range(rows) for j in range(columns)]
    return parts


def _video_frames(called: Mapping[str, Any], given: Given) -> list[StreamTokens]:
    """What the encoder runs over: each frame of each film."""
    _refuse_unknown(given, "video")
    films, frames = _films(given)
    side, parts = _side(given), []
    for item in range(films):
        times: Float[np.ndarray, "frame 2"] = film_times(given, item, frames=frames)
        for start, end in times:
            frame = _grid(item, (side, side))
            seconds = np.tile([start, end], (len(frame), 1))
            parts.append(StreamTokens(seconds, frame.row, frame.column, frame.item))
    return parts


def _refuse_unknown(given: Given, stream: str) -> None:
    kind = str(given.config.vision_config.model_type)
    if not kind.startswith("siglip"):
        raise InputError(
            f"LLaVA-OneVision: its encoder is a {kind}; what its frames are is known of SigLIP."
        )
    given.refuse_both(stream)


COMPOSITES = (
    Composite(
        "llava_onevision",
        "LLaVA-OneVision",
        streams={
            "image": Stream(
                "image_token_index",
                "pixel_values",
                _image,
                "model.vision_tower",
                _image_frames,
            ),
            "video": Stream(
                "video_token_index",
                "pixel_values_videos",
                _video,
                "model.vision_tower",
                _video_frames,
            ),
        },
        turns=Turns(named=("<|im_start|>",), until=" \n", ends=("<|im_end|>",)),
        film={"do_sample_frames": True, "num_frames": 8},
        notes="of several pictures in a sample, rows and columns are those of the square around it",
    ),
)
