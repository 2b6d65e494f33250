"""Qwen's sounds: the seconds of every token, by hand and by changing one log-mel frame."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sinkscope as ss
from sinkscope.errors import InputError
from tests.adapters import qwen_audio, qwen_omni
from tests.adapters.perturb import reached, tokens_at, without_attention
from tests.adapters.qwen_omni import QWEN2, QWEN3

FAMILIES = ("qwen2_audio", "qwen3_asr", QWEN2, QWEN3)
FORTY = ("qwen2_audio", QWEN2)
"""Families with a token of 40 ms."""


def tiny(name: str) -> tuple[nn.Module, dict[str, Any], tuple[int, ...]]:
    """Model, arguments and the log-mel frames of each sound."""
    if name in qwen_omni.SOUNDS:
        return qwen_omni.thinker(name), qwen_omni.inputs(name), qwen_omni.SOUNDS[name]
    return qwen_audio.model(name), qwen_audio.inputs(name), qwen_audio.SOUNDS[name]


def layouts_of(model: nn.Module, inputs: dict[str, Any]) -> Any:
    return next(iter(ss.load(model).batches(inputs))).layouts


def edges(name: str, mel: int) -> list[tuple[float, float]]:
    """Start and end of each token in hundredths of a second, by going through the sound."""
    if name in FORTY:
        return [(start, start + 4) for start in range(0, mel - 2, 4)]
    starts = [second + place for second in range(0, mel, 100) for place in range(0, 100, 8)]
    starts = [start for start in starts if start < mel]
    return list(zip(starts, [*starts[1:], mel], strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_seconds_and_items_are_those_counted_by_hand(name: str) -> None:
    model, inputs, sounds = tiny(name)
    layouts = layouts_of(model, inputs)
    found = [layout.seconds[layout.mask("audio")] for layout in layouts]
    items = [layout.descriptors["item"][layout.mask("audio")] for layout in layouts]
    expected = [np.array(edges(name, mel)) / 100 for mel in sounds]
    assert np.allclose(found[0], np.concatenate(expected[:2]))
    assert np.allclose(found[1], expected[2])
    assert items[0].tolist() == [0] * len(expected[0]) + [1] * len(expected[1])
    assert set(items[1]) == {2}
    assert all(np.isnan(layout.seconds[~layout.mask("audio", "video")]).all() for layout in layouts)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_log_mel_frame_reaches_the_token_that_covers_it(name: str) -> None:
    """In the middle of a token's frames, as its convolutions also look into its neighbours'."""
    model, inputs, sounds = tiny(name)
    model = without_attention(
        model, "audio_tower.layers.0.self_attn.out_proj", "1.self_attn.out_proj"
    )
    layouts = layouts_of(model, inputs)
    for sound, mel in enumerate(sounds):
        starts = [start for start, _ in edges(name, mel)]
        frames = [start + (name in FORTY) for start in {*starts[:2], *starts[11:15], starts[-1]}]
        places = [(sound, slice(None), frame) for frame in frames]
        changed = reached(model, inputs, "input_features", places)
        for frame, found in zip(frames, changed, strict=True):
            assert found == tokens_at(layouts, "audio", sound, second=(frame + 0.5) / 100)
            assert len(found) == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_sounds_are_optional_and_padding_may_be_on_either_side(name: str) -> None:
    model, inputs, _ = tiny(name)
    real = inputs["attention_mask"].bool()
    ids = torch.zeros_like(inputs["input_ids"])
    for i, row in enumerate(real):
        ids[i, : row.sum()] = inputs["input_ids"][i, row]
    right = inputs | {"input_ids": ids, "attention_mask": (ids != 0).long()}
    for before, after in zip(layouts_of(model, inputs), layouts_of(model, right), strict=True):
        assert before.without_padding().labels == after.without_padding().labels
        assert after.is_real.tolist() == sorted(before.is_real, reverse=True)
    text = {"input_ids": torch.tensor([[5, 6, 7]])}
    assert set(layouts_of(model, text)[0].segments) == {"text"}


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_that_do_not_fit_the_sounds_are_refused(name: str) -> None:
    model, inputs, sounds = tiny(name)
    legacy = {
        key: value
        for key, value in inputs.items()
        if not key.startswith(("pixel", "video", "image"))
    }
    legacy["input_ids"] = torch.tensor([[5, 80, 90, 81, 7]] * len(sounds))
    legacy["attention_mask"] = torch.ones_like(legacy["input_ids"])
    with pytest.raises(InputError, match=r"3 placeholders of audio .* tokens"):
        layouts_of(model, legacy)
    unmasked = {
        key: value
        for key, value in inputs.items()
        if "features_mask" not in key and key != "feature_attention_mask"
    }
    with pytest.raises(InputError, match="how long they are is not known"):
        layouts_of(model, unmasked)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_log_mel_frame_reaches_the_encoder_s_frame_that_covers_it(name: str) -> None:
    model, inputs, sounds = tiny(name)
    subject: Any = ss.load(model)
    heard = ss.record(subject.encoder("audio"), inputs, reducers=[ss.Keep("resid_pre")])
    assert sum(len(layout) for layout in heard.layouts) == sum(frames_of(name, m) for m in sounds)
    step, beyond = (2, 1) if name in FORTY else (8, 0)
    for sound, mel in enumerate(sounds):
        frames = [step, (mel // step - 2) * step]
        places = [(sound, slice(None), frame) for frame in frames]
        changed = reached(model, inputs, "input_features", places, encoder="audio")
        for frame, found in zip(frames, changed, strict=True):
            ((i, j),) = tokens_at(heard.layouts, "audio", sound, second=(frame + 0.5) / 100)
            assert found == [(i, j + other) for other in range(-beyond, beyond + 1)]


def frames_of(name: str, mel: int) -> int:
    """Frames of the encoder, counted by hand."""
    return -(-mel // 2) if name in FORTY else len(edges(name, mel))
