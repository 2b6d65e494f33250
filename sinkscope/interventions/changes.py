"""Changes of a clip or of token ids that controls are made of. Depends on clips only.

Example:
    >>> clip = Clip(np.ones(8, np.float32), None)
    >>> silence(clip).waveform.tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from einops import repeat

from sinkscope.avsr.clip import FRAME_RATE, SAMPLE_RATE, Clip, Crop
from sinkscope.errors import InputError

__all__ = ["frozen_frame", "other_picture", "random_tokens", "repeated", "silence", "without"]


def silence(clip: Clip) -> Clip:
    """The clip with a waveform of zeros, as long as it was.

    Raises:
        InputError: if it has no sound.
    """
    if clip.waveform is None:
        raise InputError(f"{clip.name} has no sound.")
    return replace(clip, waveform=np.zeros_like(clip.waveform), phonemes=())


def frozen_frame(clip: Clip) -> Clip:
    """The clip with its middle picture all the way through.

    Raises:
        InputError: if it has no picture, or a single one.
    """
    if clip.frames is None or len(clip.frames) < 2:
        raise InputError(f"{clip.name} has no moving picture.")
    middle = clip.frames[len(clip.frames) // 2]
    return replace(clip, frames=repeat(middle, "h w -> frame h w", frame=len(clip.frames)))


def other_picture(clip: Clip, other: Clip) -> Clip:
    """The sound of one clip with the picture of another, cut to the shorter of the two pictures.

    Raises:
        InputError: if the first lacks a stream, or the second a picture.
    """
    if clip.waveform is None or clip.frames is None:
        raise InputError(f"{clip.name} has not both sound and picture.")
    if other.frames is None:
        raise InputError(f"{other.name} has no picture.")
    count, sound = min(len(clip.frames), len(other.frames)), clip.waveform
    if count < len(clip.frames):
        sound = sound[: round(count / FRAME_RATE * SAMPLE_RATE)]
    crop = _cut(other.crop, count)
    return replace(clip, waveform=sound, frames=other.frames[:count], crop=crop)


def repeated(ids: Sequence[int], *, keep: int = 0) -> tuple[int, ...]:
    """The token in the middle, through the whole text; the first ``keep`` stay as they are.

    Keys of equal tokens are equal but for their rotary embedding, so in a model whose positions
    are all rotary no token differs from another (the repeated-token control of Gu et al., arXiv
    2410.10781).

    Example:
        >>> repeated([1, 7, 8, 9, 6], keep=1)
        (1, 8, 8, 8, 8)
    """
    return (*ids[:keep], *[ids[len(ids) // 2]] * (len(ids) - keep))


def random_tokens(
    ids: Sequence[int], vocabulary: Sequence[int], rng: np.random.Generator, *, keep: int = 0
) -> tuple[int, ...]:
    """Tokens drawn from a vocabulary, as many as there were; the first ``keep`` stay."""
    return (*ids[:keep], *rng.choice(vocabulary, len(ids) - keep).tolist())


def without(ids: Sequence[int], place: int) -> tuple[int, ...]:
    """The ids without the one at a place.

    Raises:
        InputError: if nothing else is left.
    """
    if len(ids) < 2:
        raise InputError("the text has one token only.")
    return (*ids[:place], *ids[place + 1 :])


def _cut(crop: Crop | None, count: int) -> Crop | None:
    """How the first pictures were cropped."""
    if crop is None or crop.boxes is None:
        return crop
    return replace(crop, boxes=crop.boxes[:count])
