"""Qwen's Omni models: where pictures and films lie, by hand and by changing one patch."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.errors import InputError
from tests.adapters import qwen_omni
from tests.adapters.perturb import reached, tokens_at, without_attention
from tests.adapters.qwen_omni import FILM, PICTURE, QWEN2, QWEN3

BOTH = pytest.mark.parametrize("name", [QWEN2, QWEN3])
STREAMS = {
    "image": ("pixel_values", "image_grid_thw", qwen_omni.IMAGE_ID, PICTURE),
    "video": ("pixel_values_videos", "video_grid_thw", qwen_omni.VIDEO_ID, FILM),
}


def layouts_of(model: Any, inputs: dict[str, Any]) -> Any:
    return next(iter(ss.load(model).batches(inputs))).layouts


def alone(name: str, stream: str, grids: list[tuple[int, int, int]]) -> dict[str, Any]:
    """Pictures or films and a word, without sounds."""
    pixels, sizes, placeholder, _ = STREAMS[stream]
    counts = [t * h * w for t, h, w in grids]
    ids = [[82, *[placeholder] * (count // 4), 83] for count in counts]
    generator = torch.Generator().manual_seed(2)
    given = {
        "input_ids": torch.tensor([[5, *itertools.chain(*ids), 7]]),
        pixels: torch.randn(sum(counts), 96, generator=generator),
        sizes: torch.tensor(grids),
    }
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    if stream == "video":
        given["video_second_per_grid"] = torch.arange(1, len(grids) + 1) / 2
    return given


def patches(grid: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Frame, row and column of the patches as a processor hands them over: squares of 2 by 2."""
    frames, rows, columns = grid
    return [
        (frame, 2 * up + i, 2 * left + j)
        for frame in range(frames)
        for up in range(rows // 2)
        for left in range(columns // 2)
        for i in range(2)
        for j in range(2)
    ]


@BOTH
def test_segments_rows_columns_and_seconds_are_those_counted_by_hand(name: str) -> None:
    model, inputs = qwen_omni.thinker(name), qwen_omni.inputs(name)
    film, picture = layouts_of(model, inputs)
    first, second, _ = (qwen_omni.tokens_of(name, mel) for mel in qwen_omni.SOUNDS[name])
    sounds = ["delimiter", *["audio"] * first, "delimiter", "text"]
    sounds += ["delimiter", *["audio"] * second, "delimiter", "text", "text"]
    expected = ["text", "text", "delimiter", *["video"] * 16, "delimiter", *sounds]
    assert list(film.segments) == expected
    here = film.mask("video")
    assert film.descriptors["row"][here].tolist() == ([0] * 4 + [1] * 4) * 2
    assert film.descriptors["column"][here].tolist() == [0, 1, 2, 3] * 4
    assert film.seconds[here].tolist() == [[0, 1]] * 8 + [[1, 2]] * 8
    here = picture.mask("image")
    assert np.flatnonzero(here)[0] - np.flatnonzero(picture.is_real)[0] == 2
    assert picture.descriptors["row"][here].tolist() == [0, 0, 1, 1]
    assert picture.descriptors["column"][here].tolist() == [0, 1, 0, 1]
    assert np.isnan(picture.seconds[here]).all()


@BOTH
@pytest.mark.parametrize("stream", STREAMS)
def test_a_patch_reaches_the_token_that_covers_it(name: str, stream: str) -> None:
    """The second of two items of unequal size, with windows that are not full."""
    model = without_attention(qwen_omni.thinker(name), "0.attn.proj", "1.attn.proj")
    grids = [(1, 4, 4), (1, 6, 10)] if stream == "image" else [(1, 4, 4), (3, 6, 4)]
    inputs = alone(name, stream, grids)
    layouts = layouts_of(model, inputs)
    chosen = [0, 1, 6, 23, 38, 59]
    places = [(16 + place,) for place in chosen]
    changed = reached(model, inputs, STREAMS[stream][0], places)
    for place, found in zip(chosen, changed, strict=True):
        frame, row, column = patches(grids[1])[place]
        second = None if stream == "image" else frame + 0.25
        assert found == tokens_at(
            layouts, stream, 1, second=second, row=row // 2, column=column // 2
        )
        assert len(found) == 1


@BOTH
@pytest.mark.parametrize("stream", STREAMS)
def test_a_patch_reaches_the_encoder_s_patch(name: str, stream: str) -> None:
    """The encoder of Qwen2.5-Omni puts the patches of a window side by side."""
    model: Any = qwen_omni.thinker(name)
    grids = [(1, 4, 4), (1, 6, 10)] if stream == "image" else [(1, 4, 4), (3, 6, 4)]
    inputs = alone(name, stream, grids)
    encoder = ss.load(model).encoder(stream)
    record = ss.record(encoder, inputs, reducers=[ss.Keep("resid_pre"), ss.Keep("pattern")])
    assert len(record.layouts) == 1
    assert len(record.layouts[0]) == sum(t * h * w for t, h, w in grids)
    chosen = [0, 1, 6, 23, 38, 59]
    places = [(16 + place,) for place in chosen]
    changed = reached(model, inputs, STREAMS[stream][0], places, encoder=stream)
    for place, found in zip(chosen, changed, strict=True):
        frame, row, column = patches(grids[1])[place]
        second = None if stream == "image" else frame + 0.25
        assert found == tokens_at(record.layouts, stream, 1, second=second, row=row, column=column)


@BOTH
def test_an_encoder_that_runs_over_pictures_and_films_at_once_is_refused(name: str) -> None:
    model: Any = qwen_omni.thinker(name)
    with pytest.raises(InputError, match="give it videos alone"):
        ss.record(ss.load(model).encoder("video"), qwen_omni.inputs(name))


@BOTH
def test_times_that_the_processor_sampled_go_before_those_that_the_model_is_told(name: str) -> None:
    model = qwen_omni.thinker(name)
    inputs = alone(name, "video", [(2, 4, 4)])
    (told,) = layouts_of(model, inputs)
    sampled = {"fps": 25.0, "frames_indices": [0, 10, 20, 30], "total_num_frames": 40}
    (known,) = layouts_of(model, inputs | {"video_metadata": [sampled]})
    del inputs["video_second_per_grid"]
    with pytest.raises(InputError, match="no video_second_per_grid"):
        layouts_of(model, inputs)
    placed = {"position_ids": torch.arange(inputs["input_ids"].shape[1]).expand(3, 1, -1)}
    (nothing,) = layouts_of(model, inputs | placed)
    assert told.seconds[told.mask("video")].tolist() == [[0, 0.5]] * 4 + [[0.5, 1]] * 4
    assert known.seconds[known.mask("video")].tolist() == [[0, 0.8]] * 4 + [[0.8, 1.6]] * 4
    assert np.isnan(nothing.seconds).all()


def test_streams_whose_encoder_is_shared_are_left_out_of_the_following() -> None:
    name = "qwen2_5_omni_thinker"
    own, given = qwen_omni.thinker(name), qwen_omni.inputs(name)
    easy: dict[str, Any] = {"threshold": 0.01, "min_heads": 0.01, "ratio": 1.1}
    table = ss.follow_sinks(own, given, **easy)
    assert set(table["segment"]) == {"audio"}
    assert set(table.attrs["skipped"]) == {"image", "video"}
    assert "Left out: image. " in ss.describe(table)
    other = given | {"input_features": given["input_features"].flip(-1)}
    alone = ss.follow_sinks(own, other, **easy)
    both = ss.follow_sinks(own, [given, other], **easy)
    for first, one in ((0, table), (2, alone)):
        found = both[both["sample"].isin([first, first + 1])].reset_index(drop=True)
        assert found["sample"].tolist() == (one["sample"] + first).tolist()
        for column in ("token", "encoder_ratio", "first_shown"):
            assert found[column].tolist() == one[column].tolist()
    assert alone["encoder_ratio"].tolist() != table["encoder_ratio"].tolist()
