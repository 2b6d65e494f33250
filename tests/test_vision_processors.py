"""Clips through the real processors of models that see: a changed square reaches its token."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import sinkscope as ss
from sinkscope.avsr.clip import Clip
from sinkscope.layout import TokenLayout
from tests.adapters import gemma4, llava_onevision, qwen_vl, video_llama_3, vision_processors
from tests.adapters.perturb import entrance, silenced
from tests.shared_data import shared


@dataclass(frozen=True)
class Seen:
    """A family with its processor.

    Attributes:
        load: the subject.
        silent: while open, its encoders' attention adds nothing.
        side: pixels on a side of a frame, so that nothing is resized.
        square: pixels on a side of what a token covers.
        starts: the frames of the clip (of 75) that are sampled.
        joined: how many of them make a frame of tokens.
    """

    load: Callable[[], Any]
    silent: Callable[[Any], AbstractContextManager[None]]
    side: int
    square: int
    starts: tuple[int, ...]
    joined: int = 1


def qwen(name: str, *starts: int) -> Seen:
    def load() -> Any:
        processor = vision_processors.qwen(name)
        return ss.load(qwen_vl.model(name, processor), processor=processor)

    def silent(model: Any) -> AbstractContextManager[None]:
        return silenced([block.attn.proj for block in model.model.visual.blocks])

    return Seen(load, silent, 48, 8, starts, 2)


def llava() -> Seen:
    def load() -> Any:
        processor = vision_processors.llava()
        return ss.load(llava_onevision.model(processor=processor), processor=processor)

    def silent(model: Any) -> AbstractContextManager[None]:
        layers = model.model.vision_tower.encoder.layers
        return silenced([layer.self_attn.out_proj for layer in layers])

    return Seen(load, silent, 12, 6, (0, 9, 18, 28, 37, 46, 56, 65))


def video_llama() -> Seen:
    def load() -> Any:
        processor = vision_processors.video_llama()
        return ss.load(video_llama_3.model(processor), processor=processor)

    def silent(model: Any) -> AbstractContextManager[None]:
        layers = model.model.vision_model.encoder.layers
        return silenced([layer.self_attn.out_proj for layer in layers])

    return Seen(load, silent, 48, 8, (0, 18, 37, 56))


def gemma() -> Seen:
    def load() -> Any:
        processor = vision_processors.gemma()
        subject = ss.load(gemma4.model("gemma4", processor=processor), processor=processor)
        return subject.with_options(streams=("video",))

    def silent(model: Any) -> AbstractContextManager[None]:
        layers = model.model.vision_tower.encoder.layers
        return silenced([layer.self_attn.o_proj for layer in layers])

    return Seen(load, silent, 24, 4, (0, 18, 37, 56))


FAMILIES: dict[str, Seen] = {
    "qwen2_vl": qwen("qwen2_vl", 0, 12, 25, 37, 50, 62),
    "qwen2_5_vl": qwen("qwen2_5_vl", 0, 12, 25, 37, 50, 62),
    "qwen3_vl": qwen("qwen3_vl", 0, 15, 30, 44, 59, 74),
    "llava_onevision": llava(),
    "video_llama_3": video_llama(),
    "gemma4": gemma(),
}
BY_NAME = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def clip() -> Clip:
    pytest.importorskip("torchvision", reason="video processors need torchvision")
    return ss.read_clip(shared("data/grid/bbaf2n.mpg"))


def cut(clip: Clip, side: int) -> Clip:
    """The picture cut to whole squares."""
    assert clip.frames is not None
    return replace(clip, frames=clip.frames[:, :side, :side])


@BY_NAME
def test_a_clip_is_a_film_with_its_seconds(name: str, clip: Clip) -> None:
    seen = FAMILIES[name]
    subject = seen.load()
    layout = ss.record(subject, cut(clip, seen.side)).layouts[0]
    starts = [frame / 25 for frame in seen.starts][:: seen.joined]
    found = layout.seconds[layout.mask("video")]
    found = found[~np.isnan(found[:, 0])]
    assert sorted(set(found[:, 0].tolist())) == pytest.approx(starts)
    assert sorted(set(found[:, 1].tolist())) == pytest.approx([*starts[1:], 3.0])
    said = "".join(np.array(layout.labels)[layout.mask("instruction")]).replace("␣", " ")
    assert said.endswith(subject.instruction)
    assert {"motion", "row", "column", "item"} <= set(layout.descriptors)


@BY_NAME
def test_a_square_of_a_frame_reaches_the_token_that_covers_it(name: str, clip: Clip) -> None:
    seen = FAMILIES[name]
    subject, whole = seen.load(), cut(clip, seen.side)
    assert whole.frames is not None
    places = [(seen.starts[1], 0, 1), (seen.starts[-1], 1, 0)]
    with seen.silent(subject.model):
        first = next(iter(subject.batches(whole)))
        before = entrance(subject.model, first.kwargs)[0]
        for frame, row, column in places:
            frames = whole.frames.copy()
            y, x = (place * (2 * seen.square - 1) for place in (row, column))
            frames[frame, y, x] ^= 255
            inputs = next(iter(subject.batches(replace(whole, frames=frames))))
            changed = (entrance(subject.model, inputs.kwargs)[0] != before).any(-1).numpy()
            assert np.array_equal(changed, covers(first.layouts[0], frame, row, column))
            assert changed.sum() == 1


def covers(layout: TokenLayout, frame: int, row: int, column: int) -> np.ndarray:
    here = (layout.seconds[:, 0] <= frame / 25 + 1e-6) & (frame / 25 + 1e-6 < layout.seconds[:, 1])
    here &= layout.descriptors["row"] == row
    return here & (layout.descriptors["column"] == column) & layout.mask("video")


@pytest.mark.parametrize("name", ["qwen3_vl", "video_llama_3", "gemma4"])
def test_time_stamps_agree_with_what_was_sampled(name: str, clip: Clip) -> None:
    """Of a forward that is not told what was sampled, the stamps in its text say it."""
    seen = FAMILIES[name]
    subject = seen.load()
    inputs = next(iter(subject.batches(cut(clip, seen.side))))
    told = inputs.layouts[0]
    read = next(iter(subject.batches(dict(inputs.kwargs)))).layouts[0]
    film = told.mask("video")
    assert np.array_equal(film, read.mask("video"))
    starts, ends = read.seconds[film].T
    if name == "gemma4":
        assert (starts <= told.seconds[film, 0]).all()
        assert (told.seconds[film, 0] < ends).all()
    else:
        assert np.abs(starts - told.seconds[film, 0]).max() < 0.11


def test_gemma_4_hears_the_clip_that_it_sees(clip: Clip) -> None:
    subject = FAMILIES["gemma4"].load().with_options(streams=("audio", "video"))
    layout = ss.record(subject, cut(clip, 24)).layouts[0]
    assert clip.waveform is not None
    sound = layout.seconds[layout.mask("audio")]
    assert abs(sound[-1, 1] - len(clip.waveform) / 16_000) < 0.05
    assert sound[1:, 0] == pytest.approx(sound[:-1, 1])
    assert layout.segments[0] == "bos"
    with_click = clip.waveform.copy()
    with_click[16_000 : 16_000 + 80] += 0.05
    tower = subject.model.model.audio_tower
    parts = [part for one in tower.layers for part in (one.self_attn.post, one.lconv1d.linear_end)]
    with silenced(parts):
        states = [
            entrance(subject.model, next(iter(subject.batches(each))).kwargs)[0]
            for each in (cut(clip, 24), cut(replace(clip, waveform=with_click), 24))
        ]
    changed = (states[0] != states[1]).any(-1).numpy()
    at = layout.seconds[changed]
    assert ((at[:, 0] <= 1.0) & (at[:, 1] > 1.0)).any()
    assert at[:, 0].min() > 0.9
    assert at[:, 1].max() < 1.1
