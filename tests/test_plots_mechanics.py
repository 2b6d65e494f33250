"""The figure of the mechanics, and its sentences, say what the table says."""

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

from sinkscope import plots
from sinkscope.analysis import describe, sink_mechanics
from sinkscope.plots.style import ACCENT, MUTED
from tests.fake_queries import with_queries
from tests.fake_records import PLANTED, fake_av_record


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return sink_mechanics(with_queries(fake_av_record(60)), everywhere=True)


def ends(bar: mpl.patches.Rectangle) -> tuple[float, float]:
    return tuple(sorted((bar.get_y(), bar.get_y() + bar.get_height())))


def test_bars_are_the_parts_and_stack_from_zero(table: pd.DataFrame) -> None:
    axes = plots.sink_mechanics(table)
    means = table.groupby("layer")[["cosine_part", "norm_part", "advantage"]].mean()
    assert (means[["cosine_part", "norm_part"]] < 0).any(axis=None)  # signs differ, so do stacks
    assert (means["cosine_part"] * means["norm_part"] < 0).any()
    drawn = dict(zip(("cosine_part", "norm_part"), axes.containers, strict=True))
    for name, bars in drawn.items():
        heights = [bar.get_height() for bar in bars]
        np.testing.assert_allclose(heights, means[name])
        middles = [bar.get_x() + bar.get_width() / 2 for bar in bars]
        np.testing.assert_allclose(middles, means.index)
    for first, second in zip(drawn["cosine_part"], drawn["norm_part"], strict=True):
        (a, b), (c, d) = ends(first), ends(second)
        assert b <= c + 1e-9 or d <= a + 1e-9 or min(b - a, d - c) < 1e-9
        assert min(abs(edge) for edge in (a, b, c, d)) < 1e-9
    (both,) = [c for c in axes.collections if c.get_label() == "both"]
    np.testing.assert_allclose(both.get_offsets(), means["advantage"].reset_index())


def test_every_head_has_a_dash_in_the_colour_of_what_it_does(table: pd.DataFrame) -> None:
    axes = plots.sink_mechanics(table)
    groups = table.groupby(["layer", "head"])
    holds = groups["sink_in_head"].max().astype(bool)
    advantage = groups["advantage"].mean()
    assert 0 < holds.sum() < len(holds)
    for label, color, rows in (
        ("one head that attends to it", ACCENT, holds),
        ("one head", MUTED, ~holds),
    ):
        (dashes,) = [c for c in axes.collections if c.get_label() == label]
        places, heights = np.asarray(dashes.get_offsets()).T
        np.testing.assert_allclose(heights, advantage[rows])
        np.testing.assert_allclose(places, advantage[rows].index.get_level_values("layer") + 0.4)
        assert mpl.colors.same_color(dashes.get_facecolor()[0], color)


def test_ratios_are_below_and_sink_layers_are_shaded(table: pd.DataFrame) -> None:
    axes = plots.sink_mechanics(table)
    (below,) = [panel for panel in axes.figure.axes if panel is not axes]
    lines = {line.get_label(): line for line in below.get_lines()}
    means = (
        table.assign(key=table["key_norm"] / table["key_norm_others"])
        .groupby("layer")
        .mean(numeric_only=True)
    )
    for label, values in {
        "key": means["key"],
        "value": means["value_norm_ratio"],
        "state entering the layer": means["residual_norm_ratio"],
    }.items():
        np.testing.assert_allclose(lines[label].get_xdata(), means.index)
        np.testing.assert_allclose(lines[label].get_ydata(), values)
    assert below.get_xlim() == axes.get_xlim()
    shaded = {p.get_x() + 0.5 for p in axes.patches if p.get_width() == 1}
    assert shaded == set(PLANTED.sink_layers)


def test_what_was_not_recorded_is_not_drawn(table: pd.DataFrame) -> None:
    less = table.assign(value_norm_ratio=np.nan, sink_in_head=pd.NA)
    less.attrs = table.attrs
    axes = plots.sink_mechanics(less)
    axes.figure.canvas.draw()
    labels = {line.get_label() for panel in axes.figure.axes for line in panel.get_lines()}
    assert "value" not in labels
    assert "key" in labels
    plots.sink_mechanics(table.iloc[:0]).figure.canvas.draw()


def said(advantage: float, norm_part: float, table: pd.DataFrame) -> str:
    changed = table.assign(
        advantage=advantage, norm_part=norm_part, cosine_part=advantage - norm_part
    )
    changed.attrs = table.attrs
    return describe(changed)


def test_sentences(table: pd.DataFrame) -> None:
    assert "In layers 2 to 5 (0-based)" in describe(table)
    assert "win by direction, not by size: mean q·k over heads is +20" in said(20.0, 1.0, table)
    assert "+19 by the angle to the queries and +1 by the length" in said(20.0, 1.0, table)
    assert "win by direction, not by size" in said(20.0, -3.0, table)
    assert "win by size, not by direction" in said(20.0, 21.0, table)
    assert "more by size than by direction" in said(20.0, 15.0, table)
    assert "more by direction than by size" in said(20.0, 5.0, table)
    assert "by direction and by size alike" in said(20.0, 9.0, table)
    assert "have no advantage: mean q·k over heads is -2" in said(-2.0, 5.0, table)
    assert "is not known" in said(np.nan, np.nan, table)
    sinks = table.loc[table["sink_in_layer"]]
    holds = sinks.groupby(["layer", "head"])["sink_in_head"].max().sum()
    assert f"{holds} of the 16 heads of these layers attend to one." in describe(table)
    ratio = sinks["value_norm_ratio"].mean()
    assert f"values {ratio:.3g} ×" in describe(table)
    assert describe(table.iloc[:0]) == "No attention sink: there is nothing to explain."
