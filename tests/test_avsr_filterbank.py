"""The filterbank against its formula written as slow loops, and against golden vectors."""

import math

import numpy as np
import pytest
import torch

from sinkscope.avsr.encoders.filterbank import audio_features, log_filterbank, stacked_frames
from tests.shared_data import shared

RATE, WINDOW, HOP, FFT, BANDS = 16_000, 400, 160, 512, 26


def mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def corners() -> list[int]:
    """Bins where triangles begin, peak and end."""
    mels = [mel(RATE / 2) * i / (BANDS + 1) for i in range(BANDS + 2)]
    return [math.floor((FFT + 1) * 700 * (10 ** (m / 2595) - 1) / RATE) for m in mels]


def slowly(waveform: np.ndarray) -> np.ndarray:
    """One frame, one band, one bin at a time."""
    wave = [float(x) for x in waveform]
    flat = [wave[0]] + [wave[i] - 0.97 * wave[i - 1] for i in range(1, len(wave))]
    frames = 1 if len(flat) <= WINDOW else 1 + math.ceil((len(flat) - WINDOW) / HOP)
    flat += [0.0] * (HOP * frames + WINDOW - len(flat))
    bins, rows = corners(), []
    for frame in range(frames):
        piece = flat[frame * HOP : frame * HOP + WINDOW]
        turns = np.exp(-2j * np.pi * np.outer(np.arange(FFT // 2 + 1), np.arange(WINDOW)) / FFT)
        power = np.abs(turns @ np.array(piece)) ** 2 / FFT
        row = []
        for band in range(BANDS):
            low, peak, high = bins[band : band + 3]
            energy = sum(power[i] * (i - low) / (peak - low) for i in range(low, peak))
            energy += sum(power[i] * (high - i) / (high - peak) for i in range(peak, high))
            row.append(math.log(energy or np.finfo(float).eps))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("samples", [1, 399, 400, 401, 560, 561, 2000])
def test_bands_are_those_of_the_formula(samples: int) -> None:
    rng = np.random.default_rng(samples)
    waveform = rng.normal(0, 0.1, samples) + 0.05
    np.testing.assert_allclose(log_filterbank(waveform), slowly(waveform), atol=1e-8)


def test_triangles_stand_at_their_bins() -> None:
    """A tone in the middle of a bin that is one band's peak is loudest in that band."""
    for band in (5, 12, 20, 25):
        hertz = corners()[band + 1] * RATE / FFT
        tone = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)
        assert log_filterbank(tone)[1:-1].argmax(1).tolist() == [band] * 97


def test_frames_are_stacked_in_the_order_of_time() -> None:
    frames = np.arange(6 * BANDS, dtype=float).reshape(6, BANDS) + 1
    stacked = stacked_frames(frames)
    assert stacked.shape == (2, 104)
    np.testing.assert_array_equal(stacked[0], np.arange(104) + 1.0)
    np.testing.assert_array_equal(stacked[1, :52], frames[4:].ravel())
    assert not stacked[1, 52:].any()
    assert stacked_frames(frames[:4]).shape == (1, 104)


@pytest.mark.parametrize("frames", [1, 2, 7, 25])
def test_whole_video_frames_make_as_many_features(frames: int) -> None:
    """640 samples a frame: what lets sound and picture share one clock."""
    features = audio_features(np.random.default_rng(0).normal(0, 0.1, 640 * frames))
    assert features.shape == (frames, 104)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.mean(1), torch.zeros(frames), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        features.var(1, unbiased=False), torch.ones(frames), atol=1e-3, rtol=0
    )


def test_loudness_does_not_matter_and_silence_is_zero() -> None:
    waveform = np.random.default_rng(0).normal(0, 0.1, 640 * 8)
    torch.testing.assert_close(
        audio_features(waveform)[:-1], audio_features(waveform * 7)[:-1], atol=1e-5, rtol=0
    )
    assert not audio_features(np.zeros(6400))[:-1].any()


def test_golden_set() -> None:
    where = shared("golden/G_avhubert_fbank")
    inputs, wanted = np.load(where / "inputs.npz"), np.load(where / "outputs.npz")
    samples = sorted(key.split("/")[0] for key in inputs.files if key.endswith("/audio"))
    assert samples
    for sample in samples:
        waveform = inputs[f"{sample}/audio"][:, 0]
        bands = log_filterbank(waveform)
        np.testing.assert_allclose(bands, wanted[f"{sample}/logfbank"], atol=1e-9)
        np.testing.assert_allclose(stacked_frames(bands), wanted[f"{sample}/stacked"], atol=1e-9)
        found = audio_features(waveform).numpy()
        np.testing.assert_allclose(found, wanted[f"{sample}/audio_feature"], atol=1e-6)
