"""Log filterbank features as AV-HuBERT hears them: 26 bands, four frames side by side.

The bands are those of python_speech_features' defaults: pre-emphasis 0.97, frames of 25 ms every
10 ms without a window, 26 triangles from 0 Hz to half of the sampling rate, equally wide on the mel
scale 2595 log10(1 + f / 700).
"""

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from sinkscope.avsr.clip import SAMPLE_RATE
from sinkscope.errors import InputError

__all__ = ["BANDS", "STACKED", "WINDOW", "audio_features", "log_filterbank", "stacked_frames"]

BANDS = 26
STACKED = 4
"""Frames of 10 ms that make one of 40 ms."""

WINDOW = SAMPLE_RATE // 40
"""Samples of a frame."""

_HOP, _FFT = SAMPLE_RATE // 100, 512
_EMPHASIS = 0.97


def log_filterbank(
    waveform: Float32[np.ndarray, " samples"] | Float64[np.ndarray, " samples"],
) -> Float64[np.ndarray, "frame 26"]:
    """Logarithm of the energy in each band, 100 frames a second.

    Pre-emphasis keeps the waveform's own precision, as the reference does; the rest is float64. The
    last frame is filled up with zeros; a waveform shorter than 25 ms makes one frame.

    Raises:
        InputError: the waveform is empty.

    >>> log_filterbank(np.zeros(16000)).shape
    (99, 26)
    """
    if not len(waveform):
        raise InputError("The sound is empty; give at least one sample.")
    sound = np.append(waveform[:1], waveform[1:] - _EMPHASIS * waveform[:-1]).astype(np.float64)
    count = 1 + max(0, -(-(len(sound) - WINDOW) // _HOP))
    sound = np.pad(sound, (0, (count - 1) * _HOP + WINDOW - len(sound)))
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::_HOP]
    power = np.abs(np.fft.rfft(frames, _FFT)) ** 2 / _FFT
    energy = power @ _triangles().T
    return np.log(np.where(energy == 0, np.finfo(np.float64).eps, energy))


def stacked_frames(frames: Float64[np.ndarray, "frame band"]) -> Float64[np.ndarray, "slow wide"]:
    """Four frames side by side, the earliest first; zeros fill the last one up.

    >>> stacked_frames(np.ones((5, 26))).shape
    (2, 104)
    """
    padded = np.pad(frames, ((0, -len(frames) % STACKED), (0, 0)))
    return padded.reshape(-1, STACKED * frames.shape[1])


def audio_features(
    waveform: Float32[np.ndarray, " samples"] | Float64[np.ndarray, " samples"],
) -> Float[Tensor, "frame 104"]:
    """What AV-HuBERT hears of a waveform: 25 frames a second, each to mean 0 and deviation 1."""
    stacked = torch.from_numpy(stacked_frames(log_filterbank(waveform)).astype(np.float32))
    return torch.nn.functional.layer_norm(stacked, stacked.shape[1:])


def _triangles() -> Float64[np.ndarray, "band bin"]:
    """Weight of each frequency in each band: 1 at the band's own corner, 0 at its neighbours'."""
    highest = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, BANDS + 2) / 2595) - 1)
    low, middle, high = _windows(np.floor((_FFT + 1) * corners / SAMPLE_RATE))
    bins = np.arange(_FFT // 2 + 1)
    rising = (bins - low) / np.maximum(middle - low, 1)
    falling = (high - bins) / np.maximum(high - middle, 1)
    before = (low <= bins) & (bins < middle)
    after = (middle <= bins) & (bins < high)
    return np.where(before, rising, 0.0) + np.where(after, falling, 0.0)


def _windows(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each band's lower, middle and upper corner, as columns."""
    return corners[:-2, None], corners[1:-1, None], corners[2:, None]
