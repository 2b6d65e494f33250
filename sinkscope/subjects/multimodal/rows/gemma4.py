"""Gemma 4, with encoders and without (unified). Formulas read in transformers 5.23.

Each patch comes with its column and row. The encoder averages patches in squares, which makes the
tokens; the unified model has no encoder, its patches are tokens. Before each frame of a film the
processor writes the minute and second in which it is.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from sinkscope.errors import InputError
from sinkscope.subjects.multimodal.films import film_times
from sinkscope.subjects.multimodal.sounds import masked_frames
from sinkscope.subjects.multimodal.stamps import stamps_before
from sinkscope.subjects.multimodal.table import Composite, Given, Stream, StreamTokens, Turns

__all__ = ["COMPOSITES"]

TOKEN_STEP = 0.04
"""Seconds of a sound's token: four log-mel frames of 10 ms, or 640 samples at 16 kHz."""

HALVINGS = 4
"""Of a sound's log-mel frames every fourth says whether a token is real."""

Places = Int[np.ndarray, "picture patch 2"]
Pooling = Callable[[Given], int]


def _squares(given: Given) -> int:
    return int(given.config.vision_config.pooling_kernel_size)


def _none(_: Given) -> int:
    return 1


def _audio(given: Given, *, every: int) -> StreamTokens:
    """The frames of every sound that its mask calls real."""
    mask = given.inputs.get("input_features_mask")
    if mask is None:
        raise InputError(
            "Gemma 4 takes no notice of input_features without input_features_mask; give both, as "
            "its processor returns them."
        )
    real: Bool[np.ndarray, "item frame"] = mask[:, ::every].bool().cpu().numpy()
    item, frame = np.nonzero(real)
    start, blank = TOKEN_STEP * frame, np.full(len(item), np.nan)
    seconds = np.stack([start, start + TOKEN_STEP], axis=1)
    return StreamTokens(seconds, blank, blank, item.astype(np.int64))


def _frames(called: Mapping[str, Any], given: Given) -> Sequence[StreamTokens]:
    """The encoder's frames, each of which is a token: those that its mask calls real."""
    real = called["attention_mask"][:, ::HALVINGS].bool().cpu().numpy()
    return masked_frames(real, step=TOKEN_STEP)


def _image(given: Given, *, pooling: Pooling) -> StreamTokens:
    places = _places(given, "image")
    shapes = [_shape(picture, pooling(given)) for picture in places]
    return StreamTokens.of_grids([(1, rows, columns) for rows, columns in shapes])


def _video(given: Given, *, pooling: Pooling) -> StreamTokens:
    places = _places(given, "video")
    counts = given.needed("num_frames_per_video", "video").tolist()
    if sum(counts) != len(places):
        raise InputError(
            f"num_frames_per_video says {sum(counts)} frames, but video_position_ids places "
            f"{len(places)}; give what the model's own processor made of one conversation."
        )
    shapes = [_shape(frame, pooling(given)) for frame in places]
    firsts = np.cumsum([0, *counts])[:-1]
    grids = [(count, *shapes[first]) for count, first in zip(counts, firsts, strict=True)]
    return StreamTokens.of_grids(grids, _clock(given, grids))


def _places(given: Given, kind: str) -> Places:
    """Column and row of each patch; -1 where there is none."""
    return given.needed(f"{kind}_position_ids", kind).cpu().numpy()


def _shape(patches: Int[np.ndarray, "patch 2"], pool: int) -> tuple[int, int]:
    """Rows and columns of tokens of one picture.

    Raises:
        InputError: if its patches are not all of a grid, row by row, or do not make whole squares.
    """
    real = patches[(patches != -1).all(axis=-1)]
    columns, rows = (int(size) for size in real.max(axis=0, initial=-1) + 1)
    row, column = np.indices((rows, columns)).reshape(2, -1)
    whole = rows % pool == 0 and columns % pool == 0
    if not whole or not np.array_equal(real, np.stack([column, row], axis=1)):
        raise InputError(
            f"The places of {len(real)} patches are not a grid of whole squares of {pool} by "
            f"{pool}, row by row; give what the model's own processor made."
        )
    return rows // pool, columns // pool


def _clock(
    given: Given, grids: Sequence[tuple[int, int, int]]
) -> list[Float[np.ndarray, "frame 2"]]:
    """When each frame is: as the processor sampled it, else the second that is written."""
    known = [film_times(given, item, frames=grid[0]) for item, grid in enumerate(grids)]
    tokenizer = getattr(given.processor, "tokenizer", None)
    if tokenizer is None or not any(np.isnan(times).any() for times in known):
        return known
    opening = re.escape(tokenizer.decode([given.config.boi_token_id], skip_special_tokens=False))
    lengths = [rows * columns for frames, rows, columns in grids for _ in range(frames)]
    stamps = stamps_before(
        given, given.config.video_token_id, lengths, rf"(?<!\d)(\d{{2,3}}):(\d{{2}})\s*{opening}"
    )
    if stamps is None:
        return known
    ends = np.cumsum([grid[0] for grid in grids])
    return [np.stack([own, own + 1], axis=1) for own in np.split(stamps, ends[:-1])]


def _row(
    model_type: str, title: str, *, pooling: Pooling, every: int, towers: tuple[str, str]
) -> Composite:
    return Composite(
        model_type,
        title,
        streams={
            "audio": Stream(
                "audio_token_id",
                "input_features",
                partial(_audio, every=every),
                towers[0],
                _frames if towers[0] else None,
            ),
            "image": Stream(
                "image_token_id", "pixel_values", partial(_image, pooling=pooling), towers[1]
            ),
            "video": Stream(
                "video_token_id",
                "pixel_values_videos",
                partial(_video, pooling=pooling),
                towers[1],
            ),
        },
        turns=Turns(named=("<|turn>",), ends=("<turn|>",)),
        delimiters=("boi_token_id", "eoi_token_id", "boa_token_id", "eoa_token_index"),
        notes="its picture encoder is not studied alone" if any(towers) else "has no encoders",
    )


COMPOSITES = (
    _row(
        "gemma4",
        "Gemma 4",
        pooling=_squares,
        every=HALVINGS,
        towers=("model.audio_tower", "model.vision_tower"),
    ),
    _row("gemma4_unified", "Gemma 4 (unified)", pooling=_none, every=1, towers=("", "")),
)
