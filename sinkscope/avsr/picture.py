"""Pictures of any media file as a steady stream of grey frames at 25 a second."""

import math
from collections.abc import Iterator
from itertools import repeat

import numpy as np
from av import VideoFrame
from jaxtyping import UInt8

from sinkscope.avsr.clip import FRAME_RATE
from sinkscope.avsr.decode import Decoder
from sinkscope.errors import InputError

__all__ = ["shown_pictures", "steady_frames"]

LONGEST_STILL_SECONDS = 60.0
"""A picture that stands still for longer is a broken time stamp, and refused."""

CLOCK_TOLERANCE = 1e-3
"""Seconds by which common containers round their time stamps."""


def steady_frames(
    decoder: Decoder, *, origin: float | None = None
) -> Iterator[UInt8[np.ndarray, "height width"]]:
    """Yield the grey picture shown at second ``(i + 0.5) / 25`` after the origin, for i = 0, 1, ...

    A picture is shown from its own time stamp until the next one's, whatever the file's frame rate,
    constant or not; the first is also shown before its time, the last for its own duration. While
    one picture is shown, the same array is yielded. Rotation (a phone held upright) and pixels that
    are not square are put right.

    Args:
        decoder: of kind ``"video"``; read from its beginning.
        origin: second of the file's clock that counts as 0; the first picture's by default.

    Raises:
        InputError: the file cannot be read, or its time stamps jump.
    """
    size = None
    for _, frame, times in _schedule(decoder, origin):
        if times:
            size = size or _square_size(frame, decoder.pixel_aspect)
            yield from repeat(_grey(frame, size), times)


def shown_pictures(decoder: Decoder, *, origin: float | None = None) -> tuple[list[int], int]:
    """Which of the file's pictures each steady frame shows, and how many pictures there are.

    Args:
        decoder: as `steady_frames` takes it.
        origin: the same.

    Returns:
        The 0-based number of a picture for each steady frame, and the number of pictures.
    """
    numbers, pictures = [], 0
    for number, _, times in _schedule(decoder, origin):
        numbers += [number] * times
        pictures = number + 1
    return numbers, pictures


def _schedule(decoder: Decoder, origin: float | None) -> Iterator[tuple[int, VideoFrame, int]]:
    """Every picture's number, the picture, and for how many steady frames it is shown."""
    index, number, frame = 0, 0, None
    for number, (start, stop, frame) in enumerate(_spans(decoder)):
        if stop - start > LONGEST_STILL_SECONDS:
            raise InputError(
                f"{decoder.path}: the time stamps of the picture jump by {stop - start:.0f} s "
                f"at {start:.1f} s; write the file again with a converter."
            )
        origin = start if origin is None else origin
        due = math.ceil((stop - CLOCK_TOLERANCE - origin) * FRAME_RATE - 0.5)
        yield number, frame, max(0, due - index)
        index = max(index, due)
    if frame is not None and index == 0:  # a single picture, shown for less than half a frame
        yield number, frame, 1


def _spans(decoder: Decoder) -> Iterator[tuple[float, float, VideoFrame]]:
    """Every picture with the seconds from and to which it is shown."""
    shown = None
    for time, frame in decoder.frames():
        if shown is not None:
            yield shown[0], time, shown[1]
        shown = (time, frame) if isinstance(frame, VideoFrame) else shown
    if shown is not None:
        yield shown[0], decoder.stop, shown[1]


def _square_size(frame: VideoFrame, pixel_aspect: float) -> tuple[int, int]:
    """Width and height of the picture in square pixels."""
    return max(1, round(frame.width * pixel_aspect)), frame.height


def _grey(frame: VideoFrame, size: tuple[int, int]) -> UInt8[np.ndarray, "height width"]:
    """The picture as it is meant to be seen: grey, upright, of the size that the first one has."""
    image = frame.reformat(width=size[0], height=size[1], format="gray").to_ndarray()
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))
