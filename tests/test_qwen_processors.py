"""Clips through Qwen's real processors: what reaches the LLM is where the layout says it is."""

from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.avsr.clip import Clip
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from tests.adapters import qwen_audio, qwen_omni, qwen_processors
from tests.adapters.perturb import entrance, without_attention
from tests.adapters.qwen_omni import QWEN2, QWEN3
from tests.adapters.qwen_processors import SIDE
from tests.shared_data import shared

BOTH = pytest.mark.parametrize("name", [QWEN2, QWEN3])
ALL = pytest.mark.parametrize("name", ["qwen2_audio", "qwen3_asr", QWEN2, QWEN3])
IN_FILM = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
"""Raised inside the processor where it counts audio tokens."""


@pytest.fixture(scope="module")
def clip() -> Clip:
    """Three seconds of GRID, its picture cut to whole squares of patches."""
    read = ss.read_clip(shared("data/grid/bbaf2n.mpg"))
    assert read.frames is not None
    return replace(read, frames=read.frames[:, :SIDE, :SIDE])


def subject_of(name: str, *, cut: bool = False) -> Any:
    """The tiny model with its real processor, or one whose encoders' attention adds nothing."""
    if name in (QWEN2, QWEN3):
        pytest.importorskip("torchvision", reason="video processors need torchvision")
        processor = qwen_processors.omni(name)
        model = qwen_omni.thinker(name, processor)
        added = ("0.attn.proj", "1.attn.proj", *AUDIO_ADDED)
    else:
        processor = qwen_processors.sounds(name)
        model, added = qwen_audio.model(name, processor), AUDIO_ADDED
    return ss.load(without_attention(model, *added) if cut else model, processor=processor)


AUDIO_ADDED = ("audio_tower.layers.0.self_attn.out_proj", "audio_tower.layers.1.self_attn.out_proj")


def moved(subject: Any, clip: Clip, other: Clip) -> tuple[TokenLayout, set[int]]:
    """A clip's layout, and where another clip's tokens differ at the entrance of the LLM."""
    first, second = (next(iter(subject.batches(one))) for one in (clip, other))
    states = [entrance(subject.model, inputs.kwargs)[0] for inputs in (first, second)]
    assert len(first.layouts[0]) == len(states[0]) == len(states[1])
    return first.layouts[0], set((states[0] != states[1]).any(-1).nonzero()[:, 0].tolist())


def runs(layout: TokenLayout) -> list[tuple[str, int]]:
    """The segments from the first film or audio token to the last, and how long each run is."""
    found = [(name, len(list(run))) for name, run in groupby(layout.segments)]
    inside = [i for i, (name, _) in enumerate(found) if name in ("audio", "video")]
    return found[inside[0] : inside[-1] + 1]


def asked(layout: TokenLayout) -> str:
    """What the user says, from the labels of single bytes."""
    said = np.array(layout.labels)[layout.mask("instruction")]
    return "".join(said).replace("␣", " ")


@BOTH
def test_a_clip_is_film_and_sound_with_their_seconds(name: str, clip: Clip) -> None:
    subject = subject_of(name)
    record = ss.record(subject, clip)
    layout = record.layouts[0]
    tokens = 74 if name == QWEN2 else 3 * 13
    assert runs(layout) == [("video", 27), ("delimiter", 2), ("audio", tokens)]
    assert not layout.has_bos
    assert {"system", "text", "padding"}.isdisjoint(layout.segments)
    assert asked(layout) == subject.instruction
    # Two frames a second are sampled of 75: 0, 12, 25, 37, 50 and 62, two to a token.
    film = layout.seconds[layout.mask("video")]
    assert film.tolist() == [[0, 1]] * 9 + [[1, 2]] * 9 + [[2, 3]] * 9
    sound = layout.seconds[layout.mask("audio")]
    assert clip.waveform is not None
    assert abs(sound[-1, 1] - len(clip.waveform) / 16_000) < 0.04
    assert np.array_equal(sound[1:, 0], sound[:-1, 1])
    assert {"silence", "motion", "row", "column", "item"} <= set(layout.descriptors)
    assert record.clips[0].name == clip.name


@BOTH
@IN_FILM
def test_the_sound_of_a_film_lies_between_its_frames(name: str, clip: Clip) -> None:
    """Qwen2.5-Omni takes turns every two seconds, Qwen3-Omni at every frame of tokens."""
    subject = subject_of(name).with_options(audio_in_video=True)
    layout = ss.record(subject, clip).layouts[0]
    if name == QWEN2:
        assert runs(layout) == [("video", 18), ("audio", 50), ("video", 9), ("audio", 24)]
    else:
        turns = [("video", 9), ("audio", 13), ("video", 9), ("audio", 13), ("video", 9)]
        assert runs(layout) == [*turns, ("audio", 13)]
    apart = ss.record(subject.with_options(audio_in_video=False), clip).layouts[0]
    for stream in ("audio", "video"):
        one, other = layout.mask(stream), apart.mask(stream)
        assert np.array_equal(layout.seconds[one], apart.seconds[other])
        for axis in ("row", "column", "item"):
            ours, theirs = layout.descriptors[axis][one], apart.descriptors[axis][other]
            assert np.array_equal(ours, theirs, equal_nan=True)


@BOTH
@IN_FILM
@pytest.mark.parametrize("between", [False, True])
def test_a_square_of_a_frame_reaches_the_token_that_covers_it(
    name: str, between: bool, clip: Clip
) -> None:
    subject = subject_of(name, cut=True).with_options(audio_in_video=between)
    assert clip.frames is not None
    for frame, row, column in ((25, 1, 2), (37, 0, 1), (62, 2, 0), (30, 1, 1)):
        frames = clip.frames.copy()
        frames[frame, 28 * row : 28 * row + 28, 28 * column : 28 * column + 28] ^= 255
        layout, changed = moved(subject, clip, replace(clip, frames=frames))
        covers = (layout.seconds[:, 0] <= frame / 25) & (frame / 25 < layout.seconds[:, 1])
        covers &= layout.descriptors["row"] == row
        covers &= layout.descriptors["column"] == column
        assert changed == (set() if frame == 30 else set(np.flatnonzero(covers)))
        assert covers.sum() == 1


@ALL
def test_a_sound_reaches_the_tokens_that_cover_it(name: str, clip: Clip) -> None:
    """A click of 5 ms moves the log-mel frames within 15 ms, and tokens look 30 ms around them."""
    subject = subject_of(name, cut=True).with_options(streams=("audio",))
    assert clip.waveform is not None
    for second in (0.5, 1.3, 2.42):
        waveform = clip.waveform.copy()
        waveform[int(second * 16_000) :][:80] += 0.05
        layout, changed = moved(subject, clip, replace(clip, waveform=waveform))
        covers = (layout.seconds[:, 0] <= second) & (second < layout.seconds[:, 1])
        assert set(np.flatnonzero(covers)) <= changed
        seconds = layout.seconds[sorted(changed)]
        assert layout.mask("audio")[sorted(changed)].all()
        assert (seconds[:, 0] < second + 0.1).all()
        assert (seconds[:, 1] > second - 0.1).all()


@BOTH
def test_a_short_film_s_seconds_are_those_of_its_frames(name: str, clip: Clip) -> None:
    """Four frames are the fewest that are sampled, though the LLM is told two a second."""
    subject = subject_of(name).with_options(streams=("video",))
    assert clip.frames is not None
    inputs = next(iter(subject.batches(replace(clip, frames=clip.frames[:25]))))
    assert inputs.kwargs["video_second_per_grid"].tolist() == [1.0]
    layout = inputs.layouts[0]
    film = layout.seconds[layout.mask("video")]
    assert film.tolist() == [[0, 0.48]] * 9 + [[0.48, 1]] * 9


@BOTH
@IN_FILM
def test_the_encoder_s_frames_have_the_same_seconds(name: str, clip: Clip) -> None:
    subject = subject_of(name).with_options(audio_in_video=True)
    layout = ss.record(subject, clip).layouts[0]
    (seen,) = ss.record(subject.encoder("video"), clip).layouts
    assert seen.seconds[:, 0].tolist() == np.repeat([0.0, 1.0, 2.0], 36).tolist()
    assert set(seen.seconds[:, 0]) == set(layout.seconds[layout.mask("video"), 0])
    (heard,) = ss.record(subject.encoder("audio"), clip).layouts
    per_token = 2 if name == QWEN2 else 1
    tokens = layout.seconds[layout.mask("audio")]
    assert np.allclose(heard.seconds[: per_token * len(tokens) : per_token, 0], tokens[:, 0])


@pytest.mark.parametrize("name", ["qwen2_audio", "qwen3_asr"])
def test_a_clip_is_a_sound_with_its_seconds(name: str, clip: Clip) -> None:
    subject = subject_of(name)
    layout = ss.record(subject, clip).layouts[0]
    (run,) = runs(layout)
    assert run == ("audio", 74 if name == "qwen2_audio" else 39)
    assert clip.waveform is not None
    assert abs(np.nanmax(layout.seconds) - len(clip.waveform) / 16_000) < 0.04
    assert asked(layout) == subject.instruction
    marks = {subject.processor.audio_bos_token, subject.processor.audio_eos_token}
    assert marks <= set(np.array(layout.labels)[layout.mask("delimiter")])
    with pytest.raises(InputError, match="cannot lay the sound of a film between its frames"):
        subject.with_options(audio_in_video=True)


def test_several_conversations_of_unequal_length(clip: Clip) -> None:
    processor = qwen_processors.sounds("qwen2_audio")
    model = qwen_audio.model("qwen2_audio", processor)
    mark = f"{processor.audio_bos_token}{processor.audio_token}{processor.audio_eos_token}"
    assert clip.waveform is not None
    sounds = [clip.waveform, clip.waveform[:16_000], clip.waveform[:8_000]]
    given = processor(
        text=[f"{mark}{mark} Compare.", f"Hear {mark}"],
        audio=sounds,
        sampling_rate=16_000,
        padding=True,
        return_tensors="pt",
    )
    first, second = ss.record(ss.load(model, processor=processor), given).layouts
    assert [int(layout.mask("audio").sum()) for layout in (first, second)] == [74 + 25, 12]
    assert set(first.descriptors["item"][first.mask("audio")]) == {0, 1}
    assert first.seconds[first.mask("audio")][74].tolist() == [0, 0.04]
    assert second.is_real.sum() == len(second) < len(first)


@BOTH
def test_a_clip_without_one_of_the_streams(name: str, clip: Clip) -> None:
    subject = subject_of(name)
    silent = replace(clip, waveform=None)
    assert {"video"} == streams_of(subject, silent)
    assert {"audio"} == streams_of(subject, replace(clip, frames=None))
    assert {"audio"} == streams_of(subject.with_options(streams=("audio",)), clip)
    with pytest.raises(InputError, match="no sound and picture"):
        ss.record(subject.with_options(audio_in_video=True), silent)
    with pytest.raises(InputError, match="the input has no input_features"):
        ss.record(subject.encoder("audio"), silent)


def streams_of(subject: Any, clip: Clip) -> set[str]:
    layout = next(iter(subject.batches(clip))).layouts[0]
    return {"audio", "video", "image"} & set(layout.segments)


def test_the_processor_may_be_told_more(clip: Clip) -> None:
    subject = subject_of(QWEN2).with_options(streams=("video",), processing={"fps": 4.0})
    inputs = next(iter(subject.batches(clip)))
    assert inputs.layouts[0].mask("video").sum() == 6 * 9
    assert inputs.kwargs["video_second_per_grid"].tolist() == [0.5]
    assert subject.provenance()["processing"] == {"fps": "4.0"}
    assert torch.is_tensor(inputs.kwargs["input_ids"])
