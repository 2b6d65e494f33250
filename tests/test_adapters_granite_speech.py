"""What the tokens of Granite-Speech stand for, by hand and by what a change of the sound moves."""

from typing import Any

import numpy as np
import pytest
import torch

import sinkscope as ss
from tests.adapters.granite_speech import NAMES, QUERIES, inputs, model
from tests.adapters.perturb import entrance, passed_over

BY_NAME = pytest.mark.parametrize("name", NAMES)
STEP = 0.12
"""Seconds of a window of six frames."""


def layouts_of(name: str, given: dict[str, Any]) -> Any:
    (batch,) = ss.load(model(name)).batches(given)
    return batch.layouts


@BY_NAME
def test_the_queries_of_a_window_cover_all_of_it(name: str) -> None:
    first, second = layouts_of(name, inputs())
    seconds, items = [], []
    for layout in (first, second):
        here = layout.mask("audio")
        seconds += layout.seconds[here].round(3).tolist()
        items += layout.descriptors["item"][here].tolist()
    windows = [[0, 1, 2], [0], [0, 1]]
    expected = [
        [round(STEP * i, 3), round(STEP * (i + 1), 3)]
        for sound in windows
        for i in sound
        for _ in range(QUERIES)
    ]
    assert seconds == expected
    assert items == [0] * 9 + [1] * 3 + [2] * 6


@BY_NAME
@pytest.mark.parametrize(("sound", "frame"), [(0, 0), (0, 7), (0, 14), (1, 4), (2, 5), (2, 6)])
def test_what_a_frame_moves_is_its_window(name: str, sound: int, frame: int) -> None:
    given = inputs()
    given["input_features"][sound, frame] += 3
    with passed_over(model(name).model.encoder.layers):
        moved = entrance(model(name), given) != entrance(model(name), inputs())
    at = (frame + 0.5) * 0.02
    for sample, layout in enumerate(layouts_of(name, inputs())):
        start, end = layout.seconds.T
        covers = (start <= at) & (at < end) & (layout.descriptors["item"] == sound)
        assert np.array_equal(moved[sample].any(-1).numpy(), covers)


@BY_NAME
def test_without_a_mask_every_window_counts(name: str) -> None:
    given = inputs()
    del given["input_features_mask"]
    features = given["input_features"][:1]
    ids = torch.tensor([[5, *[90] * 9, 6]])
    (layout,) = layouts_of(name, {"input_ids": ids, "input_features": features})
    assert layout.mask("audio").sum() == QUERIES * 3


@BY_NAME
def test_text_alone_needs_no_sound(name: str) -> None:
    (layout,) = layouts_of(name, {"input_ids": torch.tensor([[5, 6, 7]])})
    assert layout.segments == ("text",) * 3


@BY_NAME
def test_windows_after_a_sounds_end_are_appended_silence(name: str) -> None:
    """Sounds of three windows of six frames, one and two, in a batch of 15 frames."""
    record = ss.record(ss.load(model(name)).encoder("audio"), inputs(), keep=["resid_post"])
    assert [len(layout) for layout in record.layouts] == [15] * 3
    assert [layout.segments.count("audio") for layout in record.layouts] == [15, 6, 12]
    assert record.layouts[1].segments[6:] == ("appended_silence",) * 9
