"""Layouts of encoder frames: every frame has seconds, none is BOS. Depends on layouts and clips.

Example:
    >>> import numpy as np
    >>> clip = Clip(np.zeros(1000, np.float32), None)
    >>> layout = layout_of_frames(clip, "audio", positions=5, frame_rate=50, appends=True)
    >>> layout.segments.count("audio"), layout.segments[-1], layout.seconds[1].tolist()
    (4, 'appended_silence', [0.02, 0.04])
"""

import numpy as np
from jaxtyping import Bool

from sinkscope.avsr.clip import SAMPLE_RATE, Clip
from sinkscope.errors import InputError
from sinkscope.glossary import APPENDED
from sinkscope.layout import TokenLayout
from sinkscope.subjects.clip_layouts import describe
from sinkscope.subjects.layouts import pad_layout

__all__ = ["STREAMS", "layout_of_frames", "unknown_frames"]

STREAMS = ("audio", "video", "audiovisual", "image")
"""What an encoder may read; its frames belong to the segment of that name."""


def layout_of_frames(
    clip: Clip,
    stream: str,
    *,
    positions: int,
    frame_rate: float | int,
    frames: int | None = None,
    appends: bool = False,
) -> TokenLayout:
    """The layout of one clip's frames, called f0, f1 ...; the first is the reference.

    Args:
        clip: where they come from.
        stream: the segment of the clip's frames.
        positions: frames that the encoder runs.
        frame_rate: frames a second.
        frames: how many of them are the clip's; the others are padding. All by default.
        appends: whether the encoder fills its window with silence that it attends to: frames that
            begin after the sound ends are ``appended_silence``, not padding.

    Raises:
        InputError: if the clip has no frame.
    """
    own = positions if frames is None else min(frames, positions)
    sounding = own
    if appends:
        samples = 0 if clip.waveform is None else len(clip.waveform)
        own, sounding = positions, min(positions, _frames_begun(samples, frame_rate))
    if sounding < 1:
        raise InputError(f"{clip.name} has no {stream} frame; give a longer clip.")
    seconds = _seconds(own, frame_rate)
    layout = TokenLayout.of(
        [stream] * sounding + [APPENDED] * (own - sounding),
        [f"f{i}" for i in range(own)],
        seconds=seconds,
        descriptors=describe(clip, seconds),
    )
    return pad_layout(layout, np.arange(positions) < own)


def unknown_frames(
    stream: str, real: Bool[np.ndarray, " frame"], *, frame_rate: float | int
) -> TokenLayout:
    """The layout of frames whose clip nobody named: all of the stream, with seconds from 0."""
    count = int(real.sum())
    layout = TokenLayout.of(
        [stream] * count, [f"f{i}" for i in range(count)], seconds=_seconds(count, frame_rate)
    )
    return pad_layout(layout, real)


def _seconds(count: int, frame_rate: float | int) -> np.ndarray:
    edges = np.arange(count + 1, dtype=np.float64) / frame_rate
    return np.stack([edges[:-1], edges[1:]], axis=1)


def _frames_begun(samples: int, frame_rate: float | int) -> int:
    """Frames that begin before the sound ends."""
    return int(np.ceil(samples * frame_rate / SAMPLE_RATE - 1e-9))
