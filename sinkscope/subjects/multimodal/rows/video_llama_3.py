"""VideoLLaMA 3. Formulas read in transformers 5.23.

Squares of patches become one token each; their side is given with every picture and film. Of a film
the processor keeps the tokens that differ from the frame before, and writes before each frame when
it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sinkscope.subjects.multimodal.films import film_times, unknown_times
from sinkscope.subjects.multimodal.squares import Grid, in_squares
from sinkscope.subjects.multimodal.stamps import stamps_before
from sinkscope.subjects.multimodal.table import CHATML, Composite, Given, Stream, StreamTokens

__all__ = ["COMPOSITES"]

STAMP = r"Time (\d+(?:\.\d+)?)s:"

Times = Float[np.ndarray, "frame 2"]


def _grids(sizes: Any, merges: Sequence[int]) -> list[Grid]:
    """Frames, rows and columns of patches, or of squares of them."""
    return [
        (int(t), int(h) // merge, int(w) // merge)
        for (t, h, w), merge in zip(sizes.tolist(), merges, strict=True)
    ]


def _of(given: Given, kind: str) -> list[Grid]:
    sizes = given.needed(f"{kind}_grid_thw", kind)
    merges = given.needed(f"{kind}_merge_sizes", kind, entries=len(sizes))
    return _grids(sizes, merges.tolist())


def _image(given: Given) -> StreamTokens:
    return StreamTokens.of_grids(_of(given, "image"))


def _video(given: Given) -> StreamTokens:
    grids = _of(given, "video")
    return StreamTokens.of_grids(grids, _clock(given, grids)).take(_kept(given, grids))


def _kept(given: Given, grids: Sequence[Grid]) -> Int[np.ndarray, " token"]:
    """The tokens of the films that the LLM receives."""
    mask = given.inputs.get("video_compression_mask")
    if mask is None:
        return np.arange(sum(int(np.prod(grid)) for grid in grids))
    return np.flatnonzero(mask.cpu().numpy())


def _clock(given: Given, grids: Sequence[Grid]) -> list[Times]:
    """When each frame of tokens is: as sampled where the processor says so, else as it is written.

    A time that is written is right to a tenth of a second; a frame stands for what lies before the
    next one.
    """
    known = [film_times(given, item, frames=grid[0]) for item, grid in enumerate(grids)]
    if not any(np.isnan(times).any() for times in known):
        return known
    stamps = stamps_before(given, given.config.video_token_id, _lengths(given, grids), STAMP)
    if stamps is None:
        return known
    ends = np.cumsum([grid[0] for grid in grids])
    return [_until_the_next(own) for own in np.split(stamps, ends[:-1])]


def _lengths(given: Given, grids: Sequence[Grid]) -> list[int]:
    """Tokens that each frame keeps."""
    sizes = [rows * columns for frames, rows, columns in grids for _ in range(frames)]
    edges = np.cumsum([0, *sizes])
    return np.diff(np.searchsorted(_kept(given, grids), edges)).tolist()


def _until_the_next(stamps: Float[np.ndarray, " frame"]) -> Times:
    if len(stamps) < 2:
        return unknown_times(len(stamps))
    last = stamps[-1] + np.median(np.diff(stamps))
    return np.stack([stamps, np.append(stamps[1:], last)], axis=1)


def _image_frames(called: Mapping[str, Any], given: Given) -> list[StreamTokens]:
    given.refuse_both("image")
    grids, merges = _patches(called)
    return [in_squares(grids, merges, [unknown_times(grid[0]) for grid in grids])]


def _video_frames(called: Mapping[str, Any], given: Given) -> list[StreamTokens]:
    given.refuse_both("video")
    grids, merges = _patches(called)
    return [in_squares(grids, merges, _clock(given, _of(given, "video")))]


def _patches(called: Mapping[str, Any]) -> tuple[list[Grid], list[int]]:
    merges = called["merge_sizes"].tolist()
    return _grids(called["grid_thw"], [1] * len(merges)), merges


COMPOSITES = (
    Composite(
        "video_llama_3",
        "VideoLLaMA 3",
        streams={
            "image": Stream(
                "image_token_id", "pixel_values", _image, "model.vision_model", _image_frames
            ),
            "video": Stream(
                "video_token_id",
                "pixel_values_videos",
                _video,
                "model.vision_model",
                _video_frames,
            ),
        },
        turns=CHATML,
        film={"do_sample_frames": True, "fps": 1.0},
    ),
)
