"""The tiny encoders: a clock, padding that touches nothing, and inputs that are refused."""

import numpy as np
import pytest
import torch

from sinkscope.avsr.clip import SAMPLE_RATE, Clip
from sinkscope.avsr.encoders import Encoder, TinyAudioEncoder, TinyVideoEncoder, build_encoder
from sinkscope.errors import CheckpointError, InputError

SECONDS = (1.5, 0.8, 2.4)
KINDS = ("tiny-audio", "tiny-video")


def clip_of(seconds: float, *, size: int = 32) -> Clip:
    rng = np.random.default_rng(int(seconds * 100))
    waveform = rng.normal(0, 0.1, int(seconds * SAMPLE_RATE)).astype(np.float32)
    frames = rng.integers(20, 200, (int(seconds * 25), size, size), dtype=np.uint8)
    return Clip(waveform, frames)


def encoder_of(kind: str) -> Encoder:
    """Untrained, but no weight is 0 or 1: a bias of 0 would hide a mask that is missing."""
    torch.manual_seed(0)
    encoder = build_encoder(kind, {}).eval()
    with torch.no_grad():
        for weight in encoder.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return encoder


def features(encoder: Encoder, *clips: Clip) -> torch.Tensor:
    with torch.no_grad():
        return encoder(*encoder.prepare(clips))


@pytest.fixture
def clips() -> list[Clip]:
    return [clip_of(seconds) for seconds in SECONDS]


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_does_not_depend_on_the_batch(kind: str, clips: list[Clip]) -> None:
    encoder = encoder_of(kind)
    together = features(encoder, *clips)
    _, lengths = encoder.prepare(clips)
    for clip, row, length in zip(clips, together, lengths.tolist(), strict=True):
        alone = features(encoder, clip)[0]
        assert alone.shape == (length, encoder.width)
        torch.testing.assert_close(row[:length], alone, atol=2e-5, rtol=1e-4)
        assert not row[length:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_the_padding_is_never_looked_at(kind: str, clips: list[Clip]) -> None:
    encoder = encoder_of(kind)
    batch, lengths = encoder.prepare(clips)
    per_frame = batch.shape[1] / int(lengths.max())
    spoilt = batch.clone()
    for row, length in zip(spoilt, lengths.tolist(), strict=True):
        row[round(length * per_frame) :] = 50.0
    assert not torch.equal(spoilt, batch)
    with torch.no_grad():
        assert torch.equal(encoder(spoilt, lengths), encoder(batch, lengths))


@pytest.mark.parametrize(("kind", "rate"), [("tiny-audio", 50), ("tiny-video", 25)])
def test_frames_a_second_and_size(kind: str, rate: int, clips: list[Clip]) -> None:
    encoder = encoder_of(kind)
    assert encoder.frame_rate == rate
    _, lengths = encoder.prepare(clips)
    assert lengths.dtype == torch.int64
    assert lengths.tolist() == [int(seconds * rate) for seconds in SECONDS]
    assert sum(weight.numel() for weight in encoder.parameters()) <= 330_000


def test_a_click_is_heard_in_its_own_frame() -> None:
    """Band frame j stands for the middle of 10 ms number j; a shift by one frame is seen."""
    waveform = np.zeros(SAMPLE_RATE, np.float32)
    waveform[int(0.50 * SAMPLE_RATE) : int(0.52 * SAMPLE_RATE)] = 0.5 * np.sin(np.arange(320))
    encoder = TinyAudioEncoder()
    bands = encoder.log_mels(*encoder.prepare([Clip(waveform, None)]))[0]
    loud = (bands - bands.min()).sum(1)
    center = float((loud * (torch.arange(len(loud)) + 0.5) / 100).sum() / loud.sum())
    assert center == pytest.approx(0.51, abs=0.003)


def test_a_tone_is_in_the_band_of_its_pitch() -> None:
    encoder = TinyAudioEncoder()
    peaks = []
    for hertz in (300, 1000, 4000):
        tone = 0.3 * np.sin(2 * np.pi * hertz * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
        bands = encoder.log_mels(*encoder.prepare([Clip(tone.astype(np.float32), None)]))[0]
        peaks.append(int(bands.mean(0).argmax()))
    bottom, top = (2595 * np.log10(1 + edge / 700) for edge in (20, 8000))
    wanted = [
        (2595 * np.log10(1 + hertz / 700) - bottom) / (top - bottom) * 81 - 1
        for hertz in (300, 1000, 4000)
    ]
    np.testing.assert_allclose(peaks, wanted, atol=1.0)


def test_loudness_does_not_matter() -> None:
    clip = clip_of(1.0)
    quiet = Clip(clip.waveform * np.float32(0.3), None)
    encoder = encoder_of("tiny-audio")
    torch.testing.assert_close(features(encoder, quiet), features(encoder, clip), atol=0.05, rtol=0)
    other = Clip(clip.waveform[::-1].copy(), None)
    assert (features(encoder, other) - features(encoder, clip)).abs().max() > 0.5


def test_light_and_contrast_do_not_matter() -> None:
    frames = clip_of(1.0).frames // 2
    encoder = encoder_of("tiny-video")
    plain, brighter = (features(encoder, Clip(None, f)) for f in (frames, frames * 2 + 40))
    torch.testing.assert_close(brighter, plain, atol=0.02, rtol=0)


def test_a_large_crop_is_shrunk_by_the_mean() -> None:
    small = clip_of(1.0).frames
    large = np.kron(small, np.ones((1, 3, 3), np.uint8))
    signs = np.kron(np.random.default_rng(0).choice([-8, 8], (32, 32)), np.ones((3, 3), int))
    ripple = signs * np.tile(np.array([[1, 0, -1], [0, 0, 0], [-1, 0, 1]]), (32, 32))
    encoder = encoder_of("tiny-video")
    wanted = features(encoder, Clip(None, small))
    got = features(encoder, Clip(None, (large + ripple).astype(np.uint8)))
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)


def test_any_size_of_crop_is_taken() -> None:
    assert features(encoder_of("tiny-video"), clip_of(1.0, size=50)).shape == (1, 25, 128)


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_is_seen_around_its_own_time(kind: str) -> None:
    """Frames before and after a change feel it alike, and most where it is."""
    encoder = encoder_of(kind)
    clip = clip_of(2.0)
    waveform, frames = clip.waveform.copy(), clip.frames.copy()
    waveform[SAMPLE_RATE : SAMPLE_RATE + SAMPLE_RATE // 25] *= 0.1
    frames[25] = frames[25, ::-1]
    moved = (features(encoder, Clip(waveform, frames)) - features(encoder, clip))[0].norm(dim=1)
    times = (torch.arange(len(moved)) + 0.5) / encoder.frame_rate
    weight = moved**2
    assert float((weight * times).sum() / weight.sum()) == pytest.approx(1.02, abs=0.02)


@pytest.mark.parametrize(
    ("kind", "clip", "said"),
    [
        ("tiny-audio", Clip(None, np.zeros((5, 32, 32), np.uint8)), "no sound"),
        ("tiny-video", Clip(np.zeros(16_000, np.float32), None), "no picture"),
        ("tiny-audio", Clip(np.zeros(319, np.float32), None), "too short"),
        ("tiny-video", Clip(None, np.zeros((0, 32, 32), np.uint8)), "too short"),
    ],
)
def test_a_clip_without_what_is_needed_is_refused(kind: str, clip: Clip, said: str) -> None:
    with pytest.raises(InputError, match=said):
        encoder_of(kind).prepare([clip_of(1.0), clip])


def test_silence_and_a_black_picture_give_numbers() -> None:
    clip = Clip(np.zeros(8000, np.float32), np.zeros((12, 32, 32), np.uint8))
    for encoder in (TinyAudioEncoder(), TinyVideoEncoder()):
        assert features(encoder, clip).isfinite().all()


def test_an_unknown_kind_or_argument_is_refused() -> None:
    with pytest.raises(CheckpointError, match="known are tiny-audio, tiny-video"):
        build_encoder("clever", {})
    with pytest.raises(CheckpointError, match="legs"):
        build_encoder("tiny-audio", {"legs": 3})
