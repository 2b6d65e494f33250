"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL. Formulas read in transformers 5.23.

The encoder reads patches in blocks of ``merge`` by ``merge``, which become one token of the LLM; a
film's frames are first joined two by two. Qwen3-VL writes between the frames when they are.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from sinkscope.subjects.multimodal.films import film_times
from sinkscope.subjects.multimodal.squares import Grid, in_squares
from sinkscope.subjects.multimodal.stamps import stamps_before
from sinkscope.subjects.multimodal.table import CHATML, Composite, Given, Stream, StreamTokens

__all__ = ["COMPOSITES", "Times", "seen"]

Times = Float[np.ndarray, "_ 2"]
Clock = Callable[[Given, Sequence[Grid]], list[Times]]
"""From the grids of the films to start and end of each of their frames of tokens."""

DEEPSTACK = (
    "between its first blocks the encoder's states are added to the stream (DeepStack), so that "
    "resid_post of a block is not resid_pre of the next"
)
STAMP = r"<(\d+(?:\.\d+)?) seconds>\s*<\|vision_start\|>"


def _grids(sizes: Any, merge: int) -> list[Grid]:
    """Frames, rows and columns of patches, or of blocks of ``merge`` by ``merge`` patches."""
    return [(int(t), int(h) // merge, int(w) // merge) for t, h, w in sizes.tolist()]


def _merge(given: Given) -> int:
    return int(given.config.vision_config.spatial_merge_size)


def _image(given: Given) -> StreamTokens:
    return StreamTokens.of_grids(_grids(given.needed("image_grid_thw", "image"), _merge(given)))


def _video(given: Given, clock: Clock) -> StreamTokens:
    grids = _grids(given.needed("video_grid_thw", "video"), _merge(given))
    return StreamTokens.of_grids(grids, clock(given, grids))


def _by_metadata(given: Given, grids: Sequence[Grid]) -> list[Times]:
    every = int(given.config.vision_config.temporal_patch_size)
    return [film_times(given, item, frames=grid[0], every=every) for item, grid in enumerate(grids)]


def _by_pace(given: Given, grids: Sequence[Grid]) -> list[Times]:
    """Qwen2.5-VL is told the seconds of each frame of tokens."""
    known, steps = _by_metadata(given, grids), given.inputs.get("second_per_grid_ts")
    if steps is None or not any(np.isnan(times).any() for times in known):
        return known
    steps = given.needed("second_per_grid_ts", "video", entries=len(grids))
    return [
        float(step) * (np.arange(grid[0])[:, None] + np.arange(2))
        for grid, step in zip(grids, steps, strict=True)
    ]


def _by_stamps(given: Given, grids: Sequence[Grid]) -> list[Times]:
    """Qwen3-VL writes before each frame of tokens the mean time of the frames in it."""
    known = _by_metadata(given, grids)
    if not any(np.isnan(times).any() for times in known):
        return known
    lengths = [rows * columns for frames, rows, columns in grids for _ in range(frames)]
    stamps = stamps_before(given, given.config.video_token_id, lengths, STAMP)
    if stamps is None:
        return known
    ends = np.cumsum([grid[0] for grid in grids])
    return [_around(own) for own in np.split(stamps, ends[:-1])]


def _around(stamps: Float[np.ndarray, " frame"]) -> Times:
    """Start and end of frames of tokens from the mean time of their two frames.

    A stamp is right to a tenth of a second, and so is this. The film's first frame is at 0, so the
    first stamp is half of what lies between its two frames; the second stands for as long again.
    """
    apart = np.median(np.diff(stamps)) / 2 if len(stamps) > 1 else 2 * stamps[0]
    return np.stack([stamps - apart / 2, stamps + 1.5 * apart], axis=1).clip(min=0)


def _frames(
    called: Mapping[str, Any], given: Given, *, stream: str, clock: Clock, windows: bool = False
) -> list[StreamTokens]:
    """What the encoder runs over: all patches of all items, as one sequence."""
    given.refuse_both(stream)
    config, merge = given.config.vision_config, _merge(given)
    window = config.window_size // merge // config.patch_size if windows else None
    grids = _grids(called["grid_thw"], 1)
    return [in_squares(grids, merge, clock(given, grids), window=window)]


def _unknown(_: Given, grids: Sequence[Grid]) -> list[Times]:
    return [np.full((frames, 2), np.nan) for frames, _, _ in grids]


def seen(clock: Clock, *, windows: bool = False) -> dict[str, Stream]:
    """The streams of pictures and films of Qwen's models.

    Args:
        clock: when the frames of tokens are.
        windows: whether the encoder puts the patches of a window side by side.
    """
    frames = partial(_frames, windows=windows)
    return {
        "image": Stream(
            "image_token_id",
            "pixel_values",
            _image,
            "model.visual",
            partial(frames, stream="image", clock=_unknown),
        ),
        "video": Stream(
            "video_token_id",
            "pixel_values_videos",
            partial(_video, clock=clock),
            "model.visual",
            partial(frames, stream="video", clock=clock),
        ),
    }


def _row(
    model_type: str, title: str, clock: Clock, *, windows: bool = False, notes: str = ""
) -> Composite:
    return Composite(
        model_type,
        title,
        streams=seen(clock, windows=windows),
        turns=CHATML,
        delimiters=("vision_start_token_id", "vision_end_token_id"),
        film={"do_sample_frames": True, "fps": 2.0},
        notes=notes,
    )


COMPOSITES = (
    _row("qwen2_vl", "Qwen2-VL", _by_metadata),
    _row("qwen2_5_vl", "Qwen2.5-VL", _by_pace, windows=True),
    _row("qwen3_vl", "Qwen3-VL", _by_stamps, notes=DEEPSTACK),
    _row("qwen3_vl_moe", "Qwen3-VL-MoE", _by_stamps, notes=DEEPSTACK),
)
