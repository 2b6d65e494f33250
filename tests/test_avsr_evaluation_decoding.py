"""Decoding many clips: neither batches nor neighbours change what is heard."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.avsr.clip import Clip
from sinkscope.avsr.decoding import (
    ORIGINAL,
    Decoding,
    batches_of,
    checked_modality,
    decode,
    modalities_of,
)
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.errors import InputError


@pytest.fixture(scope="module")
def model():
    return ss.load("tiny-avsr").model


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    """Eight clips of eight lengths."""
    read = [ss.read_clip(path) for path in ss.bundled_clips()]
    found = []
    for number in range(8):
        clip, keep = read[number % len(read)], 1 - 0.06 * number
        sound, picture = clip.waveform, clip.frames
        assert sound is not None
        assert picture is not None
        found.append(
            replace(
                clip,
                waveform=sound[: int(len(sound) * keep)],
                frames=picture[: int(len(picture) * keep)],
            )
        )
    return found


@pytest.mark.parametrize("modality", ["audio", "video", "audiovisual"])
@pytest.mark.parametrize("beams", [1, 3])
def test_batches_do_not_change_what_is_heard(model, clips, modality, beams) -> None:
    alone, together = (
        decode(
            model,
            clips,
            modality=modality,
            decoding=Decoding(num_beams=beams, max_new_tokens=24),
            batch_frames=frames,
        )
        for frames in (1, 100_000)
    )
    assert len(batches_of(clips, frames=1)) == 8
    assert len(batches_of(clips, frames=100_000)) == 1
    assert alone == together
    assert all(one.text for one in alone)


def test_transcripts_stay_with_their_clips(model, clips) -> None:
    forward = decode(model, clips, modality="audio", batch_frames=200)
    backward = decode(model, clips[::-1], modality="audio", batch_frames=200)
    assert forward == backward[::-1]
    assert len({one.text for one in forward}) > 4


def test_a_batch_holds_no_more_frames_than_allowed_and_like_lengths() -> None:
    lengths = [5, 50, 12, 49, 11, 400, 3]
    clips = [Clip(np.zeros(640 * n, np.float32), None) for n in lengths]
    batches = batches_of(clips, frames=100)
    assert sorted(number for batch in batches for number in batch) == list(range(7))
    assert batches[:2] == [[5], [1, 3]]
    for batch in batches[1:]:
        assert max(lengths[number] for number in batch) * len(batch) <= 100


def test_the_longer_stream_counts() -> None:
    sound = Clip(np.zeros(16_000, np.float32), np.zeros((5, 8, 8), np.uint8))
    picture = Clip(np.zeros(16_000, np.float32), np.zeros((26, 8, 8), np.uint8))
    assert batches_of([sound, picture], frames=51) == [[1], [0]]
    assert batches_of([sound, picture], frames=52) == [[1, 0]]


def test_a_bad_clip_spoils_only_itself(model, clips) -> None:
    short = replace(clips[0], waveform=clips[0].waveform[:700])
    silent = replace(clips[1], waveform=None)
    heard = decode(model, [clips[0], short, clips[2], silent], modality="audio")
    assert [one.error is None for one in heard] == [True, False, True, False]
    assert "less than one token" in (heard[1].error or "")
    assert "no sound" in (heard[3].error or "")
    good = decode(model, [clips[0], clips[2]], modality="audio")
    assert [heard[0], heard[2]] == good


class Drawing(LlamaAvsr):
    """Says the seed for each clip, and keeps what it was asked for."""

    def __init__(self, model: LlamaAvsr, holds: int = 99) -> None:
        torch.nn.Module.__init__(self)
        self.config, self.holds = model.config, holds
        self.audio_encoder, self.video_encoder = model.audio_encoder, model.video_encoder
        self.audiovisual_encoder = None
        self.dropout = torch.nn.Dropout()
        self.tokenizer = SimpleNamespace(batch_decode=lambda ids, **_: [str(one) for one in ids])
        self.asked: list[dict] = []
        self.modes: list[tuple[bool, bool]] = []

    def prepare(self, clips, **options):
        self.asked.append({**options, "clips": len(clips)})
        return SimpleNamespace(spans=[[] for _ in clips])

    def generate(self, inputs, **options):
        self.asked[-1] |= options
        self.modes.append((self.training, self.dropout.training))
        if len(inputs.spans) > self.holds:
            raise torch.OutOfMemoryError("too much")
        return [options["seed"] for _ in inputs.spans]


def test_draws_depend_on_the_seed_and_the_clip_alone(model, clips) -> None:
    model = Drawing(model)
    options = {"decoding": Decoding(temperature=0.6)}
    first = decode(model, clips, batch_frames=1, **options)
    again = decode(model, clips, batch_frames=100_000, **options)
    assert first == again
    assert len({one.text for one in first}) == len(clips)
    other = decode(model, clips, decoding=Decoding(temperature=0.6, seed=1))
    assert not {one.text for one in first} & {one.text for one in other}
    assert all(asked["clips"] == 1 for asked in model.asked)


def test_a_search_without_draws_asks_for_none(model, clips) -> None:
    model = Drawing(model)
    model.train()
    model.dropout.eval()
    decode(model, clips, modality="video", decoding=Decoding(num_beams=4, video_rate=5))
    (asked,) = model.asked
    assert asked == {
        "modality": "video",
        "padding_side": "left",
        "max_new_tokens": 64,
        "num_beams": 4,
        "temperature": None,
        "seed": 0,
        "audio_rate": None,
        "video_rate": 5,
        "clips": 8,
    }
    assert model.modes == [(False, False)]
    assert model.training
    assert not model.dropout.training


def test_a_batch_that_does_not_fit_is_decoded_clip_by_clip(model, clips) -> None:
    small = Drawing(model, holds=1)
    heard = decode(small, clips[:3], modality="audio")
    assert [asked["clips"] for asked in small.asked] == [3, 1, 1, 1]
    assert all(one.text and one.error is None for one in heard)
    none = decode(Drawing(model, holds=0), clips[:3], modality="audio")
    assert all("does not fit" in (one.error or "") for one in none)


def test_what_an_encoder_does_not_read_is_said(model, clips, monkeypatch) -> None:
    assert decode(model, clips[:1])[0].note is None
    monkeypatch.setattr(model.audio_encoder, "longest_seconds", 2.5)
    long, short = clips[0], replace(clips[1], waveform=clips[1].waveform[: 2 * 16_000])
    heard = decode(model, [long, short], modality="audio", decoding=Decoding(max_new_tokens=2))
    assert "beyond 2.5 s" in (heard[0].note or "")
    assert heard[1].note is None
    assert decode(model, [long], modality="video")[0].note is None


def test_the_original_is_what_was_published() -> None:
    assert (ORIGINAL.num_beams, ORIGINAL.temperature, ORIGINAL.max_new_tokens) == (15, 0.6, 32)
    assert Decoding().temperature is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": 0}, "temperature is 0"),
    ],
)
def test_impossible_searches_are_refused(changes, message) -> None:
    with pytest.raises(InputError, match=message):
        Decoding(**changes)


def test_impossible_batches_rates_and_modalities_are_refused(model) -> None:
    with pytest.raises(InputError, match="batch of 0 frames"):
        batches_of([], frames=0)
    assert Decoding(video_rate=5).rates(model.config) == {"audio": 4, "video": 5}
    with pytest.raises(InputError, match="audio_rate is -1"):
        Decoding(audio_rate=-1).rates(model.config)
    assert modalities_of(model.config) == ("audio", "video", "audiovisual")
    deaf = replace(model.config, audio_encoder=None)
    assert modalities_of(deaf) == ("video",)
    with pytest.raises(InputError, match="no audio encoder"):
        checked_modality(deaf, "audiovisual")
    with pytest.raises(InputError, match="smell"):
        checked_modality(deaf, "smell")


def test_the_published_search_runs_and_repeats_itself(model, clips) -> None:
    how = replace(ORIGINAL, num_beams=3, max_new_tokens=6)
    first = decode(model, clips[:2], modality="audio", decoding=how)
    assert first == decode(model, clips[:2], modality="audio", decoding=how)
    other = replace(how, temperature=5.0, seed=3)
    assert first != decode(model, clips[:2], modality="audio", decoding=other)
