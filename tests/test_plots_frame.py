"""Sinks on a frame: the score lies where the layout says that its patch is."""

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest

from tests.fake_records import causal, record_from, softmax_map

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from sinkscope import plots
from sinkscope.errors import InputError, SiteError
from sinkscope.layout import TokenLayout
from sinkscope.plots.patches import patches_of
from sinkscope.record import Record

ROWS, COLUMNS = 3, 4
PICTURE = np.zeros((30, 60), np.uint8)


def layout_of(segment: str = "video", *, timed: bool = True, views: bool = False) -> TokenLayout:
    """BOS and two frames of 3 x 4 patches (or two views); the second begins with a stamp."""
    grid = np.indices((ROWS, COLUMNS)).reshape(2, -1).astype(float)
    segments = ["bos", *[segment] * 12, "delimiter", *[segment] * 12, *["instruction"] * 12]
    row, column, item = np.full((3, len(segments)), np.nan)
    view, seconds = np.full(len(segments), np.nan), np.full((len(segments), 2), np.nan)
    for number, first in enumerate((1, 14)):
        here = slice(first, first + 12)
        row[here], column[here], item[here], view[here] = *grid, 5, number
        if timed:
            seconds[here] = [number, number + 0.5]
    described = {"row": row, "column": column, "item": item}
    return TokenLayout.of(
        segments,
        [f"t{i}" for i in range(len(segments))],
        seconds=seconds,
        descriptors=described | ({"view": view} if views else {}),
    )


def record_with(layout: TokenLayout, sinks: dict[int, float]) -> Record:
    """Tokens whose logits stand out are attended to."""
    length = len(layout)
    scores = np.zeros(length)
    for token, logit in sinks.items():
        scores[token] = logit
    pattern = np.broadcast_to(
        softmax_map(np.broadcast_to(scores, (length, length)), causal(length)),
        (2, 2, length, length),
    )
    states = np.random.default_rng(0).normal(size=(2, length, 16))
    states[1, 7] *= 50
    return record_from(pattern, states, layout)


def scores_of(axes: Axes) -> np.ndarray:
    return np.ma.filled(axes.images[1].get_array(), np.nan)


def framed(axes: Axes) -> set[tuple[float, float]]:
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return {(box.get_x() + 0.5, box.get_y() + 0.5) for box in boxes}


@pytest.mark.parametrize(("token", "row", "column"), [(1, 0, 0), (4, 0, 3), (5, 1, 0), (12, 2, 3)])
def test_a_sink_is_framed_where_its_patch_is(token: int, row: int, column: int) -> None:
    record = record_with(layout_of(), {token: 6.0})
    axes = plots.sinks_on_frame(record, PICTURE, layer=1)
    shown = scores_of(axes)
    assert shown.shape == (ROWS, COLUMNS)
    assert np.unravel_index(shown.argmax(), shown.shape) == (row, column)
    assert framed(axes) == {(column, row)}
    assert "frame 0 of 2 (0.00–0.50 s) · 1 sink" in " ".join(t.get_text() for t in axes.texts)


def test_the_frame_with_the_highest_score_is_shown_or_the_one_that_was_asked_for() -> None:
    record = record_with(layout_of(), {15: 6.0, 2: 4.0})
    best = plots.sinks_on_frame(record, PICTURE, layer=0)
    assert "frame 1 of 2 (1.00–1.50 s)" in " ".join(t.get_text() for t in best.texts)
    assert framed(best) == {(1, 0)}
    first = plots.sinks_on_frame(record, PICTURE, layer=0, number=0)
    shown = scores_of(first)
    assert np.unravel_index(shown.argmax(), shown.shape) == (0, 1)
    with pytest.raises(InputError, match="no frame 2; there are 0 to 1"):
        plots.sinks_on_frame(record, PICTURE, number=2)


def test_norms_are_those_of_the_layer() -> None:
    axes = plots.sinks_on_frame(record_with(layout_of(), {}), PICTURE, layer=1, score="norm")
    shown = scores_of(axes)
    assert np.unravel_index(shown.argmax(), shown.shape) == (1, 2)


def test_frames_part_at_stamps_at_seconds_and_where_places_start_again() -> None:
    stamped = layout_of(timed=False)
    timed = layout_of()
    bare = replace(
        stamped, segments=tuple(s.replace("delimiter", "video") for s in stamped.segments)
    )
    for layout in (stamped, timed, bare):
        frames = patches_of(layout)
        assert [each.tokens.tolist() for each in frames] == [
            list(range(1, 13)),
            list(range(14, 26)),
        ]
    without = timed.descriptors["row"].copy()
    without[[9, 10, 11, 12, 14, 15, 16, 17]] = np.nan
    sparse = replace(timed, descriptors={**timed.descriptors, "row": without})
    assert [len(each.tokens) for each in patches_of(sparse)] == [8, 8]
    assert np.isnan(patches_of(sparse)[1].grid(np.arange(38.0))[0]).all()


def test_the_detailed_view_is_shown_unless_another_is_asked_for() -> None:
    layout = layout_of("image", timed=False, views=True)
    assert patches_of(layout)[0].tokens[0] == 14
    assert patches_of(layout, view=0)[0].tokens[0] == 1
    assert patches_of(layout)[0].item == 5
    with pytest.raises(InputError, match=r"no view 2 in this sample; there are \[0, 1\]"):
        patches_of(layout, view=2)


def test_the_picture_keeps_its_proportions() -> None:
    axes = plots.sinks_on_frame(record_with(layout_of(), {4: 5.0}), PICTURE, layer=0)
    axes.figure.canvas.draw()
    box = axes.get_window_extent()
    assert box.width / box.height == pytest.approx(2.0, rel=1e-3)
    assert axes.images[0].get_extent() == axes.images[1].get_extent()


def test_refusals_say_what_to_do() -> None:
    record = record_with(layout_of(), {4: 5.0})
    with pytest.raises(InputError, match=r"has shape \(4,\)"):
        plots.sinks_on_frame(record, np.zeros(4))
    with pytest.raises(InputError, match="score is 'beta'"):
        plots.sinks_on_frame(record, PICTURE, score="beta")
    with pytest.raises(InputError, match=r"no item 0 in this sample; there are \[5\]"):
        plots.sinks_on_frame(record, PICTURE, item=0)
    with pytest.raises(InputError, match="no token of image has a row"):
        plots.sinks_on_frame(record, PICTURE, segment="image")
    text = record_with(replace(layout_of(), descriptors={}), {})
    with pytest.raises(InputError, match="it shows no picture"):
        plots.sinks_on_frame(text, PICTURE)
    blank = Record(
        record.dataset.drop_vars("norm"), record.layouts, record.provenance, record.clips
    )
    with pytest.raises(SiteError, match="no norms"):
        plots.sinks_on_frame(blank, PICTURE, score="norm")
