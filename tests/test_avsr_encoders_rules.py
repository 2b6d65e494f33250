"""What the published encoders do with padding, counts, lengths, sizes and damaged clips."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.encoders import Encoder, build_encoder
from sinkscope.avsr.encoders.avhubert import mouth_crops
from sinkscope.avsr.encoders.encoder import normalised
from sinkscope.avsr.encoders.filterbank import audio_features
from sinkscope.avsr.encoders.whisper import original_count
from sinkscope.errors import CheckpointError, InputError
from tests.shared_data import shared

AVHUBERT = {"layers": 2, "width": 32, "ffn": 48, "heads": 2, "positions": 8, "position_groups": 2}
WHISPER = {
    "vocab_size": 10,
    "d_model": 32,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "pad_token_id": 0,
    "max_source_positions": 70,
}
WAVLM = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LARGE = WAVLM | {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
CONFIGS = {
    "whisper": {"whisper": WHISPER},
    "wavlm": {"wavlm": WAVLM},
    "wavlm, layer norm": {"wavlm": LARGE},
    "avhubert-audio": AVHUBERT,
    "avhubert-video": AVHUBERT,
    "avhubert-both": AVHUBERT,
}
HEARING = sorted(CONFIGS.keys() - {"avhubert-video"})


def encoder_of(name: str) -> Encoder:
    """No weight is 0 or 1: a bias of 0 would hide a mask that is missing."""
    torch.manual_seed(0)
    encoder = build_encoder(name.split(",")[0], CONFIGS[name]).eval()
    with torch.no_grad():
        for weight in encoder.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return encoder


def sound_of(samples: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.02, 0.1, samples).astype(np.float32)


def clip_of(seconds: float, *, seed: int = 0) -> Clip:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (round(25 * seconds), 96, 96), np.uint8)
    return Clip(sound_of(round(16000 * seconds), seed=seed), frames)


@torch.no_grad()
def run(encoder: Encoder, *clips: Clip, **options: bool) -> tuple[Tensor, list[int]]:
    batch, lengths = encoder.prepare(clips, **options)
    return encoder(batch, lengths, **options), lengths.tolist()


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - {"whisper"}))
def test_what_stands_in_the_padding_is_never_looked_at(name: str) -> None:
    encoder = encoder_of(name)
    batch, lengths = encoder.prepare([clip_of(0.4, seed=1), clip_of(0.9, seed=2)])
    spoilt = {key: value.clone() for key, value in batch.items()}
    clock = {"sounds": 16000, "audio": 25, "video": 25}
    for key in spoilt.keys() & clock.keys():
        spoilt[key][0, round(0.4 * clock[key]) :] = 50.0
    with torch.no_grad():
        assert torch.equal(encoder(spoilt, lengths), encoder(batch, lengths))
        strict = {"strict_original": True}
        assert not torch.equal(encoder(spoilt, lengths, **strict), encoder(batch, lengths))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_clip_in_a_batch_is_the_clip_alone(name: str) -> None:
    encoder = encoder_of(name)
    clips = [clip_of(0.4, seed=1), clip_of(0.9, seed=2), clip_of(0.48, seed=3)]
    together, lengths = run(encoder, *clips)
    for row, clip, length in zip(together, clips, lengths, strict=True):
        alone, (own,) = run(encoder, clip)
        assert own == length
        torch.testing.assert_close(row[:length], alone[0], atol=1e-5, rtol=1e-5)
        assert not row[length:].any()


@pytest.mark.parametrize("name", ["wavlm", "wavlm, layer norm"])
def test_wavlm_is_transformers_own_on_each_clip(name: str) -> None:
    encoder = encoder_of(name)
    clips = [clip_of(0.4, seed=1), clip_of(0.9, seed=2), clip_of(0.33, seed=3)]
    found, lengths = run(encoder, *clips)
    for row, clip, length in zip(found, clips, lengths, strict=True):
        sound = normalised(torch.from_numpy(clip.waveform))[None]
        with torch.no_grad():
            wanted = encoder.model(sound).last_hidden_state[0]
        assert len(wanted) == length
        torch.testing.assert_close(row[:length], wanted, atol=1e-5, rtol=1e-5)
        assert not row[length:].any()


def test_wavlm_counts_as_its_convolutions_do() -> None:
    encoder = encoder_of("wavlm")
    assert encoder.frame_rate == 50.0
    for samples in (400, 719, 720, 721, 16000, 16079, 16080):
        features, lengths = run(encoder, Clip(sound_of(samples), None))
        assert lengths == [(samples - 400) // 320 + 1] == [features.shape[1]]
    with pytest.raises(InputError, match=r"its sound is too short for one frame \(0\.025 s\)"):
        encoder.prepare([Clip(sound_of(399), clip_of(1.0).frames)])
    with pytest.raises(CheckpointError, match="add_adapter"):
        build_encoder("wavlm", {"wavlm": WAVLM | {"add_adapter": True}})


@pytest.mark.parametrize(("name", "key"), [("whisper", None), ("wavlm", "sounds")])
def test_waveforms_are_normalised_as_a_whole(name: str, key: str | None) -> None:
    """Population variance of the clip's own samples: its padding does not count."""
    encoder = encoder_of(name)
    clip, other = clip_of(0.4, seed=1), clip_of(0.9, seed=2)
    wave = clip.waveform.astype(np.float64)
    wanted = torch.from_numpy((wave - wave.mean()) / wave.std()).float()
    batch, _ = encoder.prepare([clip, other])
    if key:
        torch.testing.assert_close(batch[key][0, : len(wanted)], wanted, atol=1e-5, rtol=1e-5)
    else:
        torch.testing.assert_close(batch[:1], encoder.log_mels([wanted]), atol=1e-4, rtol=0)
    louder = Clip(clip.waveform * 3 + 0.1, None)
    torch.testing.assert_close(run(encoder, louder)[0], run(encoder, clip)[0], atol=2e-3, rtol=0)


def test_whisper_reads_its_own_window() -> None:
    """70 positions are 1.4 s; counts are whole numbers of 320 samples."""
    encoder = encoder_of("whisper")
    assert encoder.longest_seconds == pytest.approx(1.4)
    for samples in (320, 639, 640, 33_919, 22_400, 22_401):
        batch, lengths = encoder.prepare([Clip(sound_of(samples), None)])
        assert batch.shape == (1, 80, 140)
        assert lengths.tolist() == [min(samples // 320, 70)]
    beyond = torch.from_numpy(sound_of(40_000))
    other = torch.cat([beyond[:22_400], -3 * beyond[22_400:]])
    assert torch.equal(encoder.log_mels([beyond]), encoder.log_mels([other]))
    assert not torch.equal(encoder.log_mels([beyond]), encoder.log_mels([-3 * other.flip(0)]))
    with pytest.raises(InputError, match="too short for one frame"):
        encoder.prepare([Clip(sound_of(319), None)], strict_original=True)


def test_whisper_counts_the_batch_where_the_authors_do() -> None:
    encoder = encoder_of("whisper")
    clips = [Clip(sound_of(640 * 12), None), Clip(sound_of(640 * 30), None)]
    assert run(encoder, *clips)[1] == [24, 60]
    strict, lengths = run(encoder, *clips, strict_original=True)
    assert lengths == [60, 60]
    assert strict[0, 24:].abs().sum(1).all()
    assert run(encoder, clips[0], strict_original=True)[1] == [25]


def test_golden_counts_in_bfloat16() -> None:
    counts = np.load(shared("golden/whisper_token_counts.npz"))
    for key, step in (("frames_1_to_1500", 640), ("samples_797i_i1_to_600", 797)):
        wanted = counts[f"{key}_bfloat16"]
        found = [original_count(step * n, dtype=torch.bfloat16) for n in range(1, len(wanted) + 1)]
        assert found == wanted.tolist()
    encoder = build_encoder("whisper", {"whisper": WHISPER, "original_dtype": "bfloat16"})
    clip = Clip(sound_of(640 * 29), None)
    count = encoder.prepare([clip], strict_original=True)[1].item()
    assert count == counts["frames_1_to_1500_bfloat16"][28] != 58
    with pytest.raises(CheckpointError, match="original_dtype is 'float8'"):
        build_encoder("whisper", {"whisper": WHISPER, "original_dtype": "float8"})


@pytest.mark.parametrize("samples", [640 * 20 - 900, 640 * 20, 640 * 20 + 5000])
@pytest.mark.parametrize("strict", [False, True])
def test_sound_is_fitted_to_the_picture_where_both_are_read(samples: int, strict: bool) -> None:
    both, alone = encoder_of("avhubert-both"), encoder_of("avhubert-audio")
    clip = Clip(sound_of(samples), clip_of(0.8).frames)
    batch, lengths = both.prepare([clip], strict_original=strict)
    assert lengths.tolist() == [20]
    assert batch["audio"].shape == (1, 20, 104)
    assert batch["video"].shape == (1, 20, 88, 88)
    sound = np.zeros(640 * 20, np.float32)
    sound[: min(samples, len(sound))] = clip.waveform[: len(sound)]
    torch.testing.assert_close(batch["audio"][0], audio_features(sound))
    whole = alone.prepare([clip])[0]["audio"][0]
    torch.testing.assert_close(whole, audio_features(clip.waveform))


def test_one_avhubert_reads_either_stream_alone() -> None:
    both = encoder_of("avhubert-both")
    clip = clip_of(0.8)
    for stream in ("audio", "video"):
        alone = encoder_of(f"avhubert-{stream}")
        alone.load_state_dict(both.state_dict())
        batch, lengths = both.prepare([clip], streams=(stream,))
        assert set(batch) == {stream}
        with torch.no_grad():
            found = both(batch, lengths)
        torch.testing.assert_close(found, run(alone, clip)[0])
        assert (found - run(both, clip)[0]).abs().max() > 1e-3
    for wrong in (("smell",), ()):
        with pytest.raises(InputError, match="reads audio and video"):
            both.prepare([clip], streams=wrong)


def test_crops_of_any_size_keep_their_middle() -> None:
    """A bright square in the middle stays square and where it is."""
    for height, width in ((96, 96), (48, 48), (192, 192), (192, 300), (130, 97)):
        side = min(height, width)
        frames = np.zeros((1, height, width), np.uint8)
        top, left = (height - side // 2) // 2, (width - side // 2) // 2
        frames[:, top : top + side // 2, left : left + side // 2] = 255
        crops = mouth_crops(torch.from_numpy(frames))[0]
        bright = crops * 0.165 + 0.421
        assert bright.min() >= -1e-5
        assert bright.max() <= 1 + 1e-5
        for axis in (0, 1):
            line = bright.mean(axis)
            assert float((line * torch.arange(88)).sum() / line.sum()) == pytest.approx(43.5, abs=1)
        assert float(bright.sum()) == pytest.approx(48 * 48, rel=0.04)


@pytest.mark.parametrize("name", HEARING)
def test_damaged_and_empty_clips_are_named(name: str) -> None:
    encoder = encoder_of(name)
    bad = sound_of(16000)
    bad[7] = np.nan
    with pytest.raises(InputError, match="infinite or not a number"):
        encoder.prepare([clip_of(1.0), Clip(bad, clip_of(1.0).frames)])
    for strict in (False, True):
        with pytest.raises(InputError, match=r"clip: its sound is too short .*\(0\.000 s\)"):
            encoder.prepare(
                [clip_of(1.0), Clip(np.zeros(0, np.float32), clip_of(1.0).frames)],
                strict_original=strict,
            )


def test_an_empty_picture_is_named() -> None:
    for name in ("avhubert-video", "avhubert-both"):
        with pytest.raises(InputError, match="its picture is too short"):
            encoder_of(name).prepare([Clip(sound_of(16000), np.zeros((0, 96, 96), np.uint8))])


def test_silence_and_long_clips_are_told() -> None:
    dark = Clip(np.zeros(16000, np.float32), np.zeros((25, 96, 96), np.uint8))
    hearing, seeing = encoder_of("whisper"), encoder_of("avhubert-video")
    assert hearing.silent([dark, clip_of(1.0)]) == [
        "clip: its sound is constant, so that it tells nothing."
    ]
    assert "picture" in seeing.silent([dark])[0]
    assert len(encoder_of("avhubert-both").silent([dark])) == 2
    lasting = Clip(sound_of(16000), np.zeros((60, 96, 96), np.uint8))
    assert hearing.truncated([lasting, Clip(sound_of(32000), None)]) == [
        "clip lasts 2.0 s; what lies beyond 1.4 s is not encoded."
    ]
    assert "1.4 s" in hearing.truncation
    assert seeing.truncated([lasting]) == []
    assert seeing.truncation == "No clip is too long."


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_half_precision_is_near_full_precision(name: str) -> None:
    encoder = encoder_of(name)
    clips = (clip_of(0.5, seed=1), clip_of(0.9, seed=2))
    full, _ = run(encoder, *clips)
    half, _ = run(encoder.to(torch.bfloat16), *clips)
    assert half.dtype == torch.bfloat16
    assert (half.float() - full).pow(2).mean().sqrt() < 0.05 * full.std()
