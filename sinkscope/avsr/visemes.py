"""What lips show of a phoneme: several phonemes share one shape, as on real faces.

The grouping follows the usual viseme classes (bilabials alike, labiodentals alike, tongue-tip
consonants alike, velars nearly invisible), so a lip reader can tell apart no more than they do.

Example:
    >>> shape_of("p") == shape_of("b"), shape_of("p") == shape_of("f")
    (True, False)
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from sinkscope.avsr.clip import FRAME_RATE, Phoneme

__all__ = ["MouthShape", "mouth_curve", "shape_of", "viseme_of"]


class MouthShape(NamedTuple):
    """A mouth, each value 0 to 1: jaw opening, lip width, visible teeth, visible tongue."""

    opening: float
    width: float
    teeth: float
    tongue: float


REST = MouthShape(0.04, 0.5, 0.0, 0.0)

_SHAPES: dict[str, MouthShape] = {
    "closed": MouthShape(0.0, 0.48, 0.0, 0.0),
    "lip on teeth": MouthShape(0.10, 0.52, 0.9, 0.0),
    "tongue between teeth": MouthShape(0.18, 0.55, 0.5, 0.9),
    "tongue tip": MouthShape(0.20, 0.60, 0.6, 0.3),
    "hushing": MouthShape(0.22, 0.30, 0.7, 0.0),
    "back": MouthShape(0.28, 0.55, 0.2, 0.0),
    "rounded": MouthShape(0.16, 0.10, 0.0, 0.0),
    "spread": MouthShape(0.24, 0.92, 0.6, 0.2),
    "middle": MouthShape(0.46, 0.72, 0.4, 0.2),
    "open": MouthShape(0.85, 0.62, 0.3, 0.3),
    "round open": MouthShape(0.55, 0.28, 0.1, 0.0),
    "neutral": MouthShape(0.34, 0.52, 0.2, 0.1),
}
"""Shapes by viseme."""

_VISEMES: dict[str, str] = {
    **dict.fromkeys(["p", "b", "m"], "closed"),
    **dict.fromkeys(["f", "v"], "lip on teeth"),
    **dict.fromkeys(["θ", "ð", "t̪"], "tongue between teeth"),
    **dict.fromkeys(["t", "d", "s", "z", "n", "l", "ɾ"], "tongue tip"),
    **dict.fromkeys(["tʃ", "dʒ", "ʃ", "ʒ", "ɹ", "r"], "hushing"),
    **dict.fromkeys(["k", "ɡ", "g", "ŋ", "h", "j", "x"], "back"),
    **dict.fromkeys(["w", "ʍ", "u", "ʊ", "ʉ"], "rounded"),
    **dict.fromkeys(["i", "ɪ"], "spread"),
    **dict.fromkeys(["e", "ɛ"], "middle"),
    **dict.fromkeys(["a", "æ", "ɑ", "ʌ", "ɐ"], "open"),
    **dict.fromkeys(["o", "ɔ", "ɒ"], "round open"),
    **dict.fromkeys(["ə", "ɜ"], "neutral"),
}
"""The viseme of a phoneme's parts, longest name first."""

_SMOOTHING = 0.045
"""Seconds over which neighbouring shapes melt into each other (co-articulation)."""

_STEPS = 8
"""Points a frame at which the curve is computed before smoothing."""


def viseme_of(phoneme: str) -> str:
    """The viseme that a phoneme's first part shows; ``"neutral"`` for one that is not known."""
    return _parts(phoneme)[0]


def shape_of(phoneme: str) -> MouthShape:
    """The mouth at the beginning of a phoneme."""
    return _SHAPES[viseme_of(phoneme)]


def mouth_curve(phonemes: tuple[Phoneme, ...], frames: int) -> Float64[np.ndarray, "frame 4"]:
    """The mouth's four values at the middle of every video frame.

    A diphthong moves from its first shape to its last; velars keep half of what came before.
    """
    rate = FRAME_RATE * _STEPS
    curve = np.tile(np.array(REST), (frames * _STEPS, 1))
    before = np.array(REST)
    for phoneme in phonemes:
        parts = [np.array(_SHAPES[part]) for part in _parts(phoneme.label)]
        if viseme_of(phoneme.label) == "back":
            parts = [(parts[0] + before) / 2]
        start, stop = round(phoneme.start * rate), round(phoneme.end * rate)
        for number, part in enumerate(parts):
            first = start + (stop - start) * number // len(parts)
            curve[first : start + (stop - start) * (number + 1) // len(parts)] = part
        before = parts[-1]
    return _smooth(curve, _SMOOTHING * rate)[_STEPS // 2 :: _STEPS]


def _parts(phoneme: str) -> list[str]:
    """The visemes that a phoneme goes through: one, or two for a diphthong."""
    if phoneme in _VISEMES:
        return [_VISEMES[phoneme]]
    found = [_VISEMES[sign] for sign in phoneme if sign in _VISEMES]
    return [found[0], found[-1]] if found else ["neutral"]


def _smooth(curve: Float64[np.ndarray, "step value"], width: float) -> np.ndarray:
    reach = np.arange(-3 * int(width), 3 * int(width) + 1)
    kernel = np.exp(-0.5 * (reach / width) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(curve, ((len(reach) // 2,) * 2, (0, 0)), mode="edge")
    return np.stack([np.convolve(column, kernel, "valid") for column in padded.T], axis=1)
