"""The recipe of the tiny encoders: labels on the clock, shards that come back, and learning."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sinkscope.avsr.clip import SAMPLE_RATE, Clip, Phoneme
from sinkscope.avsr.encoders import build_encoder
from sinkscope.experiments.corpus import read_corpus
from sinkscope.experiments.tiny_encoders import IGNORED, Plan, _labels, in_noise, train_encoder

BEAT = 0.12
SOUNDS = {"low": 250.0, "high": 2500.0}


def toy_clip(rng: np.random.Generator) -> Clip:
    """A second of silence, low tones under a bright top and high tones under a bright bottom."""
    sound, frames = np.zeros(int(0.96 * SAMPLE_RATE)), np.full((24, 32, 32), 90.0)
    phonemes = []
    for beat in range(8):
        label = str(rng.choice(["", *SOUNDS]))
        if not label:
            continue
        samples = slice(int(beat * BEAT * SAMPLE_RATE), int((beat + 1) * BEAT * SAMPLE_RATE))
        phase = 2 * np.pi * SOUNDS[label] * np.arange(int(BEAT * SAMPLE_RATE)) / SAMPLE_RATE
        sound[samples] = 0.3 * np.sin(phase + rng.uniform(0, 6))
        half = slice(0, 16) if label == "low" else slice(16, 32)
        frames[beat * 3 : (beat + 1) * 3, half] = 200
        phonemes.append(Phoneme(label, beat * BEAT, (beat + 1) * BEAT))
    sound += rng.normal(0, 1e-3, len(sound))
    return Clip(sound.astype(np.float32), frames.astype(np.uint8), "x", phonemes=tuple(phonemes))


def write_shard(path, clips):
    """A shard as the corpus command writes it."""
    words = [
        {"text": clip.text, "phonemes": [(p.label, p.start, p.end) for p in clip.phonemes]}
        for clip in clips
    ]
    np.savez(
        path,
        sound=np.round(np.concatenate([clip.waveform for clip in clips]) * 32767).astype(np.int16),
        samples=np.array([len(clip.waveform) for clip in clips]),
        frames=np.concatenate([clip.frames for clip in clips]),
        counts=np.array([len(clip.frames) for clip in clips]),
        words=np.array(json.dumps(words)),
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    write_shard(folder / "train-0000.npz", [toy_clip(rng) for _ in range(20)])
    write_shard(folder / "train-0001.npz", [toy_clip(rng) for _ in range(10)])
    write_shard(folder / "dev-0000.npz", [toy_clip(rng) for _ in range(8)])
    return folder


def test_shards_come_back_clip_by_clip(corpus) -> None:
    rng = np.random.default_rng(0)
    wanted = [toy_clip(rng) for _ in range(30)]
    got = list(read_corpus(corpus, "train"))
    assert len(got) == 30
    for clip, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(clip.waveform, other.waveform, atol=1 / 32767)
        np.testing.assert_array_equal(clip.frames, other.frames)
        assert clip.phonemes == other.phonemes
    assert len(list(read_corpus(corpus, "train", limit=25))) == 25


@pytest.mark.parametrize(
    ("kind", "first", "last"), [("tiny-audio", 20, 29), ("tiny-video", 10, 14)]
)
def test_a_frame_is_labelled_by_its_middle(kind: str, first: int, last: int) -> None:
    encoder = build_encoder(kind, {})
    clips = [
        Clip(np.zeros(SAMPLE_RATE, np.float32), np.zeros((25, 32, 32), np.uint8), phonemes=spans)
        for spans in ((Phoneme("a", 0.404, 0.596),), (Phoneme("rare", 0.9, 1.2),))
    ]
    _, lengths = encoder.prepare(clips)
    heard, rare = _labels(clips, encoder, lengths, {"": 0, "a": 1})
    assert torch.nonzero(heard == 1).flatten().tolist() == list(range(first, last + 1))
    assert (heard[:first] == 0).all()
    assert (heard[last + 1 :] == 0).all()
    assert (rare[int(0.9 * encoder.frame_rate) + 1 :] == IGNORED).all()
    assert (rare == 1).sum() == 0


@pytest.mark.parametrize("stream", ["audio", "video"])
def test_training_learns_what_can_be_told_apart(corpus, tmp_path, stream: str) -> None:
    """Three classes in equal parts, so that guessing gives a third."""
    accuracy = train_encoder(corpus, tmp_path, Plan(stream, steps=25, batch=6))
    assert accuracy > 0.75
    weights = load_file(tmp_path / f"{stream}.safetensors")
    build_encoder(f"tiny-{stream}", {}).load_state_dict(weights)
    lines = (tmp_path / f"{stream}.log").read_text().splitlines()
    assert json.loads(lines[-1])["dev_accuracy"] == accuracy


def test_noise_is_heard_and_pictures_stay() -> None:
    rng = np.random.default_rng(0)
    clip, other = toy_clip(rng), toy_clip(rng)
    ratios = []
    for _ in range(20):
        noisy = in_noise(clip, [clip, other], rng)
        assert noisy.frames is clip.frames
        assert noisy.waveform.shape == clip.waveform.shape
        added = np.mean((noisy.waveform - clip.waveform) ** 2)
        ratios.append(10 * np.log10(np.mean(clip.waveform**2) / added))
    assert -6 < min(ratios) < 5
    assert 10 < max(ratios) < 21
