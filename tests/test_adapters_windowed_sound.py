"""What the tokens of windowed sounds stand for, by hand and by what a change of the sound moves."""

from typing import Any

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.errors import InputError
from tests.adapters.perturb import entrance, passed_over
from tests.adapters.windowed_sound import TEXTS, inputs, model

MASKED = tuple(name for name in TEXTS if name != "voxtral")
BY_NAME = pytest.mark.parametrize("name", TEXTS)


def layouts_of(name: str, given: dict[str, Any] | None = None) -> Any:
    (batch,) = ss.load(model(name)).batches(given or inputs(name))
    return batch.layouts


def audio_of(layout: Any) -> dict[str, Any]:
    here = layout.mask("audio")
    seconds = layout.seconds[here]
    return {
        "start": seconds[:, 0].round(3).tolist(),
        "end": seconds[:, 1].round(3).tolist(),
        "item": layout.descriptors["item"][here].astype(int).tolist(),
    }


@pytest.mark.parametrize("name", ["audioflamingo3", "musicflamingo"])
def test_tokens_of_40_ms_go_on_through_the_windows_of_a_sound(name: str) -> None:
    first, second = (audio_of(layout) for layout in layouts_of(name))
    assert first["start"] == [round(0.04 * i, 3) for i in range(17)]
    assert first["end"] == [round(0.04 * i, 3) for i in range(1, 18)]
    assert first["item"] == [0] * 17
    one, other = [round(0.04 * i, 3) for i in range(8)], [round(0.04 * i, 3) for i in range(12)]
    assert second["start"] == [*one, *other]
    assert second["item"] == [1] * 8 + [2] * 12


def test_glm_asr_makes_a_token_of_80_ms() -> None:
    first, second = (audio_of(layout) for layout in layouts_of("glmasr"))
    assert first["start"] == [0, 0.08, 0.16, 0.24, 0.32, 0.4, 0.48, 0.56]
    assert second["start"] == [0, 0.08, 0.16, 0.24, 0, 0.08, 0.16, 0.24, 0.32, 0.4]
    assert second["item"] == [1] * 4 + [2] * 6


def test_voxtral_fills_its_windows() -> None:
    first, second = (audio_of(layout) for layout in layouts_of("voxtral"))
    assert first["start"] == [round(0.08 * i, 3) for i in range(12)]
    assert second["start"] == [round(0.08 * i, 3) for i in range(6)] * 2
    assert first["item"] + second["item"] == [0] * 12 + [1] * 6 + [2] * 6


@BY_NAME
def test_padding_on_the_right_changes_nothing_but_its_place(name: str) -> None:
    left, right = layouts_of(name), layouts_of(name, inputs(name, left=False))
    for one, other in zip(left, right, strict=True):
        text = [[name for name in two.segments if name != "padding"] for two in (one, other)]
        assert text[0] == text[1]
        assert audio_of(one) == audio_of(other)


@BY_NAME
@pytest.mark.parametrize(("window", "mel"), [(0, 1), (0, 21), (1, 9), (2, 18), (3, 33)])
def test_what_a_mel_frame_moves_is_where_the_layout_says(name: str, window: int, mel: int) -> None:
    """One mel frame reaches a token through two convolutions of three: 20 ms either side."""
    given = inputs(name)
    given["input_features"][window, :, mel] += 3
    with passed_over(model(name).model.audio_tower.layers):
        before, after = entrance(model(name), inputs(name)), entrance(model(name), given)
    moved = (after - before).norm(dim=-1)
    item = {0: 0, 1: 0, 2: 1, 3: 2}[window]
    at = mel * 0.01 + (0.48 if window == 1 else 0) + 1e-6
    found = []
    for sample, layout in enumerate(layouts_of(name)):
        own = moved[sample].numpy()
        start, end = layout.seconds.T
        same = np.where(layout.mask("audio"), layout.descriptors["item"] == item, False)
        covers = same & (start <= at) & (at < end)
        near = same & (start <= at + 0.03) & (at - 0.03 < end)
        assert not (own[~near] > 0).any()
        found.append(np.where(covers, own, 0).max())
        assert own.max() == found[-1]
    assert sorted(found)[0] == 0 < sorted(found)[1]


@pytest.mark.parametrize("name", MASKED)
def test_two_sounds_in_one_run_are_told_apart_by_the_part_filled_window(name: str) -> None:
    given = inputs(name)
    ids = given["input_ids"][1:]
    ids = ids[(ids != 80) & (ids != 81)][None]
    joined = torch.cat([ids[ids != 90], ids[ids == 90]])[None]
    picked = {key: given[key][2:] for key in ("input_features", "input_features_mask")}
    (layout,) = layouts_of(name, {"input_ids": joined, **picked})
    items = audio_of(layout)["item"]
    assert sorted(set(items)) == [0, 1]
    assert items == sorted(items)


@BY_NAME
def test_too_many_placeholders_are_refused(name: str) -> None:
    given = inputs(name)
    given["input_ids"][0, -1] = 90
    with pytest.raises(InputError, match="placeholders of audio"):
        layouts_of(name, given)


@BY_NAME
def test_text_alone_needs_no_sound(name: str) -> None:
    (layout,) = layouts_of(name, {"input_ids": torch.tensor([[5, 6, 7]])})
    assert layout.segments == ("text",) * 3


def test_the_marks_of_a_sound_are_delimiters() -> None:
    first, _ = layouts_of("musicflamingo")
    ids = inputs("musicflamingo")["input_ids"][0]
    marks = [token in (80, 81) for token in ids.tolist()]
    assert [name == "delimiter" for name in first.segments] == marks


def test_the_padding_that_glm_asr_hears_is_appended_silence() -> None:
    """Windows of 24 frames, of which 10 and 17 are the end of a sound; Voxtral is not told."""
    for name, sounding in (("glmasr", [24, 10, 17, 24]), ("voxtral", [24] * 4)):
        record = ss.record(ss.load(model(name)).encoder("audio"), inputs(name))
        assert [len(layout) for layout in record.layouts] == [24] * 4
        assert [layout.segments.count("audio") for layout in record.layouts] == sounding
        assert [layout.segments.count("appended_silence") for layout in record.layouts] == [
            24 - count for count in sounding
        ]
