"""A clip: what every audio-visual model here takes in. Depends on numpy only."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

__all__ = ["FRAME_RATE", "SAMPLE_RATE", "Clip", "Crop", "Phoneme"]

SAMPLE_RATE = 16_000
"""Samples of sound a second."""

FRAME_RATE = 25
"""Frames of picture a second."""


@dataclass(frozen=True)
class Phoneme:
    """A phoneme and the seconds it lasts; known on synthetic clips only."""

    label: str
    start: float
    end: float


@dataclass(frozen=True)
class Crop:
    """How the mouth was found: the method in words, and one box a frame.

    Attributes:
        method: ``"face detector"``, ``"fixed box"``, ``"already a mouth crop"``,
            ``"boxes given"``, ``"landmarks"`` or ``"drawn"``.
        boxes: left, top, width, height in pixels of the original picture, one row a frame; of a
            crop that is turned (landmarks) the upright square of its centre and size.
        detected: the share of frames whose face was found or given itself, 0 to 1.
    """

    method: str
    boxes: Float32[np.ndarray, "frame 4"] | None = None
    detected: float = 0.0


@dataclass(frozen=True)
class Clip:
    """Sound and mouth crops of one utterance, on one clock that starts at 0 s.

    Attributes:
        waveform: mono samples in [-1, 1] at 16 kHz, or None where the clip has no sound.
        frames: grey mouth crops at 25 fps, 0 to 255, or None where the clip has no picture.
        text: what is said, where known.
        path: where the clip came from, as given by the caller.
        crop: how the frames were cropped.
        phonemes: the phoneme timeline, on synthetic clips.
        notes: sentences that the reader of a report must know (a fixed box, a shorter sound).
    """

    waveform: Float32[np.ndarray, " samples"] | None
    frames: UInt8[np.ndarray, "frame height width"] | None
    text: str | None = None
    path: Path | None = None
    crop: Crop | None = None
    phonemes: tuple[Phoneme, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def duration(self) -> float:
        """Seconds of the longer stream."""
        sound = 0.0 if self.waveform is None else len(self.waveform) / SAMPLE_RATE
        picture = 0.0 if self.frames is None else len(self.frames) / FRAME_RATE
        return max(sound, picture)

    @property
    def name(self) -> str:
        """The file's stem, or ``"clip"``."""
        return self.path.stem if self.path else "clip"
