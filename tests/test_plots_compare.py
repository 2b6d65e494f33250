"""Figures of two models: drawn where they are told, on one scale, and right in what they show."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

import sinkscope as ss
from sinkscope.errors import InputError
from sinkscope.plots.maps import attention_grid
from sinkscope.plots.pair import shown, sinks_of
from sinkscope.record import merge
from tests.compared_records import BASE, clip_record, clips_record

OTHER = replace(
    BASE, features=((7, 450.0), (11, 200.0)), sink="<video>", twin="", subject="after $x$"
)
BEFORE, AFTER = clips_record(), clips_record(OTHER)
FOUND = ss.compare(BEFORE, AFTER)
DRAW: dict[str, Callable[..., Axes]] = {
    "feature_changes": lambda **given: ss.plots.feature_changes(FOUND, **given),
    "cosine_changes": lambda **given: ss.plots.cosine_changes(FOUND, **given),
    "attention_changes": lambda **given: ss.plots.attention_changes(
        BEFORE, AFTER, layer=3, **given
    ),
    "sink_changes": lambda **given: ss.plots.sink_changes(BEFORE, AFTER, **given),
    "before_after": lambda **given: ss.plots.before_after(BEFORE, AFTER, FOUND, **given),
}


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def words(ax: Axes) -> str:
    texts = [ax.get_title("left"), *(text.get_text() for text in ax.texts)]
    return " ".join(" ".join(texts).split())


def image(ax: Axes) -> AxesImage:
    (found,) = ax.get_images()
    return found


@pytest.mark.parametrize("name", DRAW)
def test_they_draw_on_the_axes_given(name: str) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(16, 8))
    assert DRAW[name](ax=left) is left
    assert len(plt.get_fignums()) == 1
    assert not right.has_data()
    assert not right.texts
    figure.canvas.draw()


@pytest.mark.parametrize("name", DRAW)
def test_nothing_is_clipped(name: str, tmp_path) -> None:
    """All texts lie within the figure, also where it is saved as it is."""
    figure = DRAW[name]().get_figure(root=True)
    assert figure is not None
    figure.savefig(tmp_path / "one.png", dpi=72)
    whole = figure.get_tightbbox()
    assert whole.x0 >= 0
    assert whole.y0 >= 0
    assert whole.x1 <= figure.get_figwidth()
    assert whole.y1 <= figure.get_figheight() + 0.1  # titles reach a little higher


def test_bars_are_the_magnitudes() -> None:
    axes = ss.plots.feature_changes(FOUND)
    over = FOUND.features.loc[FOUND.features["layer"].isna()]
    widths = [bar.get_width() for bar in axes.patches]  # pyright: ignore[reportAttributeAccessIssue]
    sides = ["magnitude_before", "magnitude_after"]
    assert widths == pytest.approx(over[sides].to_numpy().ravel().tolist())
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names[0] == "7  kept"
    assert set(names) == {"7  kept", "29  lost", "57  lost", "11  new"}
    few = ss.plots.feature_changes(FOUND, most=1)
    assert "3 smaller ones not drawn" in words(few)
    assert len(ss.plots.feature_changes(FOUND, layer=1).patches) == 8


def test_no_feature_is_said() -> None:
    plan = replace(BASE, features=())
    record = clip_record(plan, 0)
    assert "no massive feature" in words(ss.plots.feature_changes(ss.compare(record, record)))


def test_curves_are_medians_of_the_same_tokens() -> None:
    axes = ss.plots.cosine_changes(FOUND)
    table = FOUND.similarity
    sinks = table.loc[table["label"].isin(["</audio>", "<video>"])]
    lines = {line.get_label(): line for line in axes.get_lines()}
    drawn = [np.asarray(line.get_ydata(), float) for line in lines.values()]
    for side in ("cosine_before", "cosine_after"):
        expected = sinks.groupby("layer")[side].median().to_numpy()
        assert any(len(one) == 4 and np.allclose(one, expected) for one in drawn)
    assert "sinks (6), before" in words(axes)
    assert "twins, no sinks (3), after" in words(axes)


def test_maps_have_one_scale_and_the_difference_is_centred() -> None:
    left = ss.plots.attention_changes(BEFORE, AFTER, layer=3, sample=1)
    panels = [ax for ax in left.figure.axes if ax.get_images()]
    assert [ax.get_title("left") for ax in panels] == ["Before", "After", "Difference"]
    assert image(panels[0]).get_clim() == image(panels[1]).get_clim()
    low, high = image(panels[2]).get_clim()
    assert low == -high
    grids = [attention_grid(r, sample=1, layer=3, head=None).values for r in (BEFORE, AFTER)]
    drawn = image(panels[2]).get_array()
    seen = np.isfinite(grids[0])
    assert np.asarray(drawn)[seen] == pytest.approx((grids[1] - grids[0])[seen])
    assert "gains most: <video>" in words(panels[2])
    assert "loses most: </audio>" in words(panels[2])
    same = ss.plots.attention_changes(BEFORE, BEFORE, layer=3)
    (moved,) = [ax for ax in same.figure.axes if ax.get_title("left") == "Difference"]
    assert "no key gains or loses 0.001" in words(moved)


def test_rows_share_time_and_attention() -> None:
    first = ss.plots.sink_changes(BEFORE, AFTER)
    rows = [ax for ax in first.figure.axes if "tention that tokens draw" in ax.get_title("left")]
    assert [ax.get_title("left").split(":")[0] for ax in rows] == ["Before", "After"]
    assert rows[0].get_ylim() == rows[1].get_ylim()
    assert rows[0].get_xlim() == rows[1].get_xlim()


def test_the_picture_tells_the_numbers() -> None:
    axes = ss.plots.before_after(BEFORE, AFTER, FOUND)
    told = words(axes)
    assert "1 → 1" in told
    assert "2 → 1" in told
    assert "before: before, after: after \\$x\\$" in told
    maps = [ax for ax in axes.figure.axes if ax.get_images()]
    assert image(maps[0]).get_clim() == image(maps[1]).get_clim()
    width, height = axes.figure.get_size_inches()
    assert width / height == pytest.approx(16 / 9)


def test_one_clip_says_that_there_is_no_interval() -> None:
    before, after = BEFORE.sample(0), AFTER.sample(0)
    assert "one clip: no interval" in words(ss.plots.before_after(before, after))
    assert "one clip" in words(ss.plots.feature_changes(ss.compare(before, after)))


def test_what_is_shown_is_where_attention_moves_most() -> None:
    sample, layer = shown(FOUND) or (-1, -1)
    own = FOUND.sinks
    row = own.loc[(own["sample"] == sample) & (own["layer"] == layer)]
    assert row["alpha_change"].abs().max() == own["alpha_change"].abs().max()
    sides = sinks_of(FOUND)
    assert set(sides[0]["label"]) >= {"</audio>"}
    assert "</audio>" not in set(sides[1]["label"])
    quiet = clip_record(replace(BASE, sink=""), 0)
    found = ss.compare(quiet, quiet)
    if found.sinks.empty:
        assert shown(found) is None


def test_other_tokens_are_refused() -> None:
    other = merge([clip_record(BASE, 2), clip_record(BASE, 0), clip_record(BASE, 1)])
    for draw in (ss.plots.attention_changes, ss.plots.sink_changes):
        with pytest.raises(InputError, match="other tokens before and after"):
            draw(BEFORE, other, layer=3, sample=0)
    with pytest.raises(InputError, match="no sample 7"):
        ss.plots.sink_changes(BEFORE, AFTER, sample=7)


def test_a_record_without_maps_is_refused() -> None:
    bare = replace(AFTER, dataset=AFTER.dataset.drop_vars("pattern"))
    with pytest.raises(InputError, match="no attention map of layer 3"):
        ss.plots.before_after(BEFORE, bare, FOUND, layer=3)
