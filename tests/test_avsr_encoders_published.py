"""Whisper, WavLM and AV-HuBERT behind the encoders' interface, against the authors' numbers."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.encoders import Encoder, build_encoder
from sinkscope.avsr.encoders.avhubert import mouth_crops
from sinkscope.avsr.encoders.filterbank import audio_features, log_filterbank, stacked_frames
from sinkscope.avsr.encoders.whisper import WhisperEncoder, original_count
from sinkscope.errors import InputError
from tests.shared_data import shared

TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}
AVHUBERT = {
    "layers": 2,
    "width": 32,
    "ffn": 48,
    "heads": 2,
    "positions": 8,
    "position_groups": 2,
}
WHISPER = {
    "vocab_size": 10,
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "pad_token_id": 0,
}
WAVLM = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 8, 8),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
CONFIGS = {
    "whisper": {"whisper": WHISPER},
    "wavlm": {"wavlm": WAVLM},
    "wavlm, layer norm": {
        "wavlm": WAVLM | {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
    },
    "avhubert-audio": AVHUBERT,
    "avhubert-video": AVHUBERT,
    "avhubert-both": AVHUBERT,
}


def encoder_of(name: str) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(name.split(",")[0], CONFIGS[name]).eval()


def clip_of(seconds: float, *, seed: int = 0) -> Clip:
    rng = np.random.default_rng(seed)
    sound = rng.normal(0, 0.1, round(16000 * seconds)).astype(np.float32)
    frames = rng.integers(0, 256, (round(25 * seconds), 96, 96), np.uint8)
    return Clip(sound, frames)


def features(encoder: Encoder, *clips: Clip, strict: bool = False) -> tuple[Tensor, list[int]]:
    batch, lengths = encoder.prepare(clips, strict_original=strict)
    with torch.no_grad():
        return encoder(batch, lengths, strict_original=strict), lengths.tolist()


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_clip_in_a_batch_is_the_clip_alone(name: str) -> None:
    encoder = encoder_of(name)
    short, long = clip_of(0.5, seed=1), clip_of(1.3, seed=2)
    together, lengths = features(encoder, short, long)
    for row, (clip, length) in enumerate(zip((short, long), lengths, strict=True)):
        alone, (own,) = features(encoder, clip)
        assert own == length
        assert alone.shape == (1, length, encoder.width)
        torch.testing.assert_close(together[row, :length], alone[0], atol=1e-5, rtol=1e-5)
        assert not together[row, length:].any()
    assert abs(lengths[1] / encoder.frame_rate - 1.3) < 2.1 / encoder.frame_rate


@pytest.mark.parametrize("name", ["avhubert-audio", "avhubert-video", "wavlm"])
def test_the_original_encodes_padding_like_content(name: str) -> None:
    encoder = encoder_of(name)
    short, long = clip_of(0.5, seed=1), clip_of(1.3, seed=2)
    strict, counts = features(encoder, short, long, strict=True)
    masked, lengths = features(encoder, short, long)
    assert counts == [lengths[1]] * 2
    assert (strict[0, : lengths[0]] - masked[0, : lengths[0]]).abs().max() > 1e-3
    assert strict[0, lengths[0] :].any()
    torch.testing.assert_close(strict[1], masked[1, : lengths[1]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_what_is_missing_or_too_short_is_refused(name: str) -> None:
    encoder = encoder_of(name)
    if "audio" in encoder.streams:
        with pytest.raises(InputError, match="no sound; choose modality='video'"):
            encoder.prepare([Clip(None, clip_of(1.0).frames)])
    if "video" in encoder.streams:
        with pytest.raises(InputError, match="no picture; choose modality='audio'"):
            encoder.prepare([Clip(clip_of(1.0).waveform, None)])
    if name.startswith("w"):
        with pytest.raises(InputError, match="too short for one frame"):
            encoder.prepare([Clip(np.zeros(40, np.float32), None)])


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_silence_gives_numbers_and_half_precision_works(name: str) -> None:
    encoder = encoder_of(name)
    clip = Clip(np.zeros(16000, np.float32), np.zeros((25, 96, 96), np.uint8))
    assert features(encoder, clip)[0].isfinite().all()
    assert features(encoder.to(torch.bfloat16), clip_of(1.0))[0].dtype == torch.bfloat16


def test_whisper_hears_half_a_minute() -> None:
    encoder = encoder_of("whisper")
    long = Clip(np.random.default_rng(0).normal(0, 0.1, 16000 * 31).astype(np.float32), None)
    assert encoder.longest_seconds == 30.0
    assert encoder.prepare([long])[1].tolist() == [1500]
    assert encoder.prepare([long], strict_original=True)[1].tolist() == [1500]
    assert encoder.truncated([long, clip_of(1.0)]) == [
        f"{long.name} lasts 31.0 s; what lies beyond 30 s is not encoded."
    ]
    assert encoder_of("avhubert-audio").truncated([long]) == []


def test_golden_whisper_counts() -> None:
    counts = np.load(shared("golden/whisper_token_counts.npz"))
    frames = [original_count(640 * n) for n in range(1, 1501)]
    assert frames == counts["frames_1_to_1500_float32"].tolist()
    samples = [original_count(797 * n) for n in range(1, 601)]
    assert samples == counts["samples_797i_i1_to_600_float32"].tolist()
    exact = [max(2 * n, 25) for n in range(1, 1501)]
    assert sum(a != b for a, b in zip(frames, exact, strict=True)) == 66


def test_golden_whisper() -> None:
    where = shared("golden/D_avsr_forward_small")
    told = json.loads((where / "config.json").read_text())
    encoder = WhisperEncoder(whisper=told["whisper_config"]).eval()
    encoder.model.load_state_dict(load_file(where / "weights_whisper.safetensors"))
    inputs = np.load(where / "inputs.npz")
    expected = load_file(where / "outputs.safetensors")
    compared = 0
    for name, case in told["cases"].items():
        if f"{name}/train/whisper/last_hidden_state_first48" not in expected:
            continue
        batch = case["batch"]
        sounds = [torch.from_numpy(inputs[f"{batch}/{i}/audio"][:, 0]) for i in (0, 1)]
        bands = encoder.log_mels(sounds)  # what the authors' data set has normalised already
        wanted = expected[f"{name}/train/whisper/input_features_first120"]
        torch.testing.assert_close(bands[..., :120], wanted, **TOLERANCE)
        with torch.no_grad():
            found = encoder(bands, torch.tensor([48, 48]), strict_original=True)
        wanted = expected[f"{name}/train/whisper/last_hidden_state_first48"]
        torch.testing.assert_close(found, wanted, **TOLERANCE)
        compared += 1
    assert compared >= 5


def test_golden_filterbank() -> None:
    where = shared("golden/G_avhubert_fbank")
    inputs, expected = np.load(where / "inputs.npz"), np.load(where / "outputs.npz")
    for name in inputs.files:
        sample = name.split("/")[0]
        waveform = inputs[name][:, 0]
        bands = log_filterbank(waveform)
        np.testing.assert_allclose(bands, expected[f"{sample}/logfbank"], atol=2e-5)
        np.testing.assert_allclose(stacked_frames(bands), expected[f"{sample}/stacked"], atol=2e-5)
        found = audio_features(waveform).numpy()
        np.testing.assert_allclose(found, expected[f"{sample}/audio_feature"], atol=2e-5)


def test_filterbank_of_a_tone_and_of_silence() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    band = log_filterbank(tone).mean(0).argmax()
    mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 28)
    middle = 700 * (10 ** (mels[band + 1] / 2595) - 1)
    assert abs(middle - 1000) < 100
    assert (log_filterbank(np.zeros(400)) == np.log(np.finfo(float).eps)).all()
    assert log_filterbank(np.ones(401)).shape == (2, 26)
    with pytest.raises(InputError, match="empty"):
        log_filterbank(np.zeros(0))


def test_mouth_crops_are_cut_and_scaled() -> None:
    frames = torch.zeros(2, 96, 96, dtype=torch.uint8)
    frames[:, 4:92, 4:92] = 255
    crops = mouth_crops(frames)
    assert crops.shape == (2, 88, 88)
    torch.testing.assert_close(crops, torch.full_like(crops, (1 - 0.421) / 0.165))
    assert mouth_crops(torch.full((1, 120, 100), 255, dtype=torch.uint8)).shape == (1, 88, 88)
