"""What a token is: how loud, whether silent, how much the mouth moves, which phoneme.

So that "this sink is a token of little meaning" can be tested and not only said. Times are the
seconds that a token covers, ``times[token] = (start, end)``; numpy only.
"""

import numpy as np
from einops import reduce
from jaxtyping import Bool, Float, Float64, UInt8

from sinkscope.avsr.clip import FRAME_RATE, SAMPLE_RATE, Clip

__all__ = ["describe_tokens", "loudness", "mouth_motion", "phoneme_at", "silence"]

FLOOR_DB = -100.0
"""Loudness of digital silence, decibels re full scale."""

LEVEL_SECONDS = 0.02
"""Length of the stretches from which a clip's own loud level is taken."""

LOUD_QUANTILE = 0.95
"""The loud level of a clip is this quantile of the loudness of its stretches."""

SILENT_DB = -80.0
"""Anything below this is silent, however quiet the rest of the clip is."""

CELLS = 12
"""Rows and columns of cells in which the motion of a picture is measured."""

Times = Float[np.ndarray, "token 2"]


def describe_tokens(clip: Clip, times: Times) -> dict[str, np.ndarray]:
    """Describe every token by the seconds of the clip that it covers.

    Args:
        clip: the clip that the tokens come from.
        times: start and end of each token in seconds; NaN for a token that covers no seconds.

    Returns:
        One array a descriptor, one entry a token: ``loudness_db``, ``silence``, ``motion`` (grey
        levels a frame) and ``phoneme``.

    Examples:
        >>> clip = Clip(np.zeros(16000, np.float32), None)
        >>> table = describe_tokens(clip, np.array([[0.0, 0.5]]))
        >>> {key: values.tolist() for key, values in table.items()}
        {'loudness_db': [-100.0], 'silence': [True], 'motion': [nan], 'phoneme': ['']}
    """
    return {
        "loudness_db": loudness(clip, times),
        "silence": silence(clip, times),
        "motion": mouth_motion(clip, times),
        "phoneme": np.array(phoneme_at(clip, times), dtype=object),
    }


def loudness(clip: Clip, times: Times) -> Float64[np.ndarray, " token"]:
    """Loudness of each token: ``20 log10`` of the root mean square, decibels re full scale.

    Not below -100 dB, which is also what a token after the end of the sound has. NaN where the clip
    has no sound or the token no seconds.

    Examples:
        >>> square = Clip(np.full(16000, 0.1, np.float32), None)
        >>> loudness(square, np.array([[0.0, 0.5], [2.0, 2.5]])).round(3)
        array([ -20., -100.])
    """
    if clip.waveform is None:
        return np.full(len(times), np.nan)
    energy = np.concatenate([[0.0], np.cumsum(np.square(clip.waveform, dtype=np.float64))])
    known = np.isfinite(times.sum(axis=1))
    edges = np.rint(np.where(known[:, None], times, 0.0) * SAMPLE_RATE).astype(int)
    start, stop = np.clip(edges, 0, len(clip.waveform)).T
    power = (energy[stop] - energy[start]) / np.maximum(stop - start, 1)
    decibels = 10 * np.log10(np.maximum(power, 10 ** (FLOOR_DB / 10)))
    return np.where(known, decibels, np.nan)


def silence(clip: Clip, times: Times, *, threshold_db: float = -30.0) -> Bool[np.ndarray, " token"]:
    """Whether each token is silent: this far below the clip's own loud level, or below -80 dB.

    The loud level is the 95th percentile of the loudness of the clip's 20 ms stretches, so that the
    answer does not change with the recording's volume. Pauses in a noisy room may stay above the
    threshold: raise it there.

    Args:
        clip: the clip that the tokens come from.
        times: start and end of each token in seconds.
        threshold_db: decibels relative to the loud level (-30: a thousandth of its power).

    Returns:
        True where silent; False where it is not known (``loudness`` is NaN there).
    """
    level = loudness(clip, times)
    stretches = np.arange(0.0, clip.duration, LEVEL_SECONDS)
    sounding = clip.duration if clip.waveform is None else len(clip.waveform) / SAMPLE_RATE
    stretches = stretches[stretches < sounding]
    every = loudness(clip, np.stack([stretches, stretches + LEVEL_SECONDS], axis=1))
    loud = np.quantile(every, LOUD_QUANTILE) if len(every) else FLOOR_DB
    return level <= max(loud + threshold_db, SILENT_DB)


def mouth_motion(clip: Clip, times: Times) -> Float64[np.ndarray, " token"]:
    """Motion of the mouth during each token: mean absolute difference between frames.

    The difference is taken between the means of 12 × 12 cells, so that a camera's noise does not
    count, and less its median over the cells, so that light that changes everywhere does not.
    Each change from one frame to the next counts from the middle of the one to the middle of the
    other (at the ends of the clip, to the end), and a token takes the mean of the changes that it
    covers, by the seconds that it covers of each.

    Returns:
        Grey levels (0 to 255) a frame; NaN where the clip has fewer than two frames, or the token
        covers none.

    Examples:
        >>> frames = np.zeros((4, 96, 96), np.uint8)
        >>> frames[2:, 64:] = 30  # the lower third turns brighter
        >>> mouth_motion(Clip(None, frames), np.array([[0.0, 0.04], [0.04, 0.12]]))
        array([0., 5.])
    """
    if clip.frames is None or len(clip.frames) < 2:
        return np.full(len(times), np.nan)
    change = _changes(clip.frames)
    edges = (np.arange(len(clip.frames)) + 0.5) / FRAME_RATE
    edges[0], edges[-1] = 0.0, len(clip.frames) / FRAME_RATE
    shared = _overlap(times, np.stack([edges[:-1], edges[1:]], axis=1))
    covered = shared.sum(axis=1)
    motion = shared @ change / np.where(covered > 0, covered, 1.0)
    return np.where(covered > 0, motion, np.nan)


def _changes(frames: UInt8[np.ndarray, "frame height width"]) -> Float[np.ndarray, " change"]:
    """Grey levels by which the cells of each frame differ from the next one's, light removed."""
    height, width = (max(1, side // CELLS) for side in frames.shape[1:])
    rows, columns = (min(CELLS, side) for side in frames.shape[1:])
    inside = frames[:, : rows * height, : columns * width]
    cells = reduce(inside.astype(np.float32), "f (r h) (c w) -> f r c", "mean", h=height, w=width)
    difference = np.diff(cells, axis=0)
    return np.abs(difference - np.median(difference, axis=(1, 2), keepdims=True)).mean(axis=(1, 2))


def phoneme_at(clip: Clip, times: Times) -> list[str]:
    """Label of the phoneme that covers most of each token; ``""`` where none does or is known.

    Examples:
        >>> from sinkscope.avsr.clip import Phoneme
        >>> clip = Clip(None, None, phonemes=(Phoneme("b", 0.0, 0.1), Phoneme("ɪ", 0.1, 0.2)))
        >>> phoneme_at(clip, np.array([[0.04, 0.12], [0.5, 0.6]]))
        ['b', '']
    """
    if not clip.phonemes:
        return [""] * len(times)
    shared = _overlap(times, np.array([[p.start, p.end] for p in clip.phonemes]))
    best = shared.argmax(axis=1)
    return [
        clip.phonemes[index].label if row[index] > 0 else ""
        for index, row in zip(best, shared, strict=True)
    ]


def _overlap(
    times: Times, spans: Float64[np.ndarray, "span 2"]
) -> Float64[np.ndarray, "token span"]:
    """Seconds that each token shares with each span; 0 for a token without seconds."""
    start = np.maximum(times[:, None, 0], spans[None, :, 0])
    stop = np.minimum(times[:, None, 1], spans[None, :, 1])
    return np.nan_to_num(np.maximum(stop - start, 0.0))
