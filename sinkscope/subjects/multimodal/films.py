"""When the frames of a film are: from what a processor says that it sampled. Numpy only."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from sinkscope.subjects.multimodal.table import Given

__all__ = ["film_times", "frame_times", "joined_frames", "unknown_times"]

Times = Float[np.ndarray, "frame 2"]


def unknown_times(frames: int) -> Times:
    """Start and end of frames of which nobody knows when they are: NaN."""
    return np.full((frames, 2), np.nan)


def frame_times(metadata: Any) -> Times | None:
    """Start and end in seconds of each frame that a processor sampled from a film.

    A frame stands for the time until the next one, the last until the film ends.

    Args:
        metadata: what transformers calls the metadata of one film, as an object or a mapping:
            ``fps`` of the film, ``frames_indices`` of the frames that were sampled, and, if known,
            ``total_num_frames``.

    Returns:
        None where it does not hold what is needed.

    Example:
        >>> frame_times({"fps": 25.0, "frames_indices": [0, 5], "total_num_frames": 20}).tolist()
        [[0.0, 0.2], [0.2, 0.8]]
    """
    pace, places = _field(metadata, "fps"), _field(metadata, "frames_indices")
    if pace is None or places is None or not len(places):
        return None
    start = np.asarray(places, float)
    total = _field(metadata, "total_num_frames")
    last = start[-1] + 1 if total is None else max(float(total), start[-1] + 1)
    return np.stack([start, np.append(start[1:], last)], axis=1) / float(pace)


def joined_frames(times: Times, *, every: int) -> Float[np.ndarray, "group 2"]:
    """Start and end of each group of ``every`` frames that become one frame of tokens.

    Example:
        >>> joined_frames(np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]), every=2).tolist()
        [[0.0, 2.0], [2.0, 3.0]]
    """
    first = np.arange(0, len(times), every)
    last = np.minimum(first + every, len(times)) - 1
    return np.stack([times[first, 0], times[last, 1]], axis=1)


def film_times(given: Given, item: int, *, frames: int, every: int = 1) -> Times:
    """Start and end of each frame of tokens of a film; NaN where the forward was not told.

    Args:
        given: what is known of the forward; the processor's ``video_metadata`` tells the times.
        item: which film.
        frames: its frames of tokens.
        every: how many of its frames become one frame of tokens.
    """
    told = given.inputs.get("video_metadata")
    times = None if told is None or item >= len(told) else frame_times(told[item])
    if times is None:
        return unknown_times(frames)
    joined = joined_frames(times, every=every)
    return joined if len(joined) == frames else unknown_times(frames)


def _field(metadata: Any, name: str) -> Any:
    return metadata.get(name) if isinstance(metadata, Mapping) else getattr(metadata, name, None)
