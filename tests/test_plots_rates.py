"""Figures of experts and rates: they show the numbers of their tables, where they are told to."""

from collections.abc import Callable, Iterator

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

import sinkscope as ss
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.plots.style import ACCENT
from tests.planted_rates import rate_record
from tests.test_analysis_words_rates import routed

FINE, COARSE = (4, 2), (16, 5)
TOP = {"top_k": 1}
RECORDS = {
    pair: rate_record(pair, clips=2, routing=routed, mome={"top_k": 1}, sinks=sinks)
    for pair, sinks in ((FINE, ("a5", "</audio>")), (COARSE, ("a1", "<s>")))
}
USAGE = {pair: ss.expert_usage(record) for pair, record in RECORDS.items()}
SINKS = ss.sinks_by_rate(RECORDS)
DISTANCES = ss.usage_distances(RECORDS, draws=20)
DRAW: dict[str, Callable[..., Axes]] = {
    "expert_usage": lambda **given: ss.plots.expert_usage(USAGE[FINE], **given),
    "usage at rates": lambda **given: ss.plots.expert_usage(USAGE, **given),
    "usage_distances": lambda **given: ss.plots.usage_distances(DISTANCES, **given),
    "rate_similarity": lambda **given: ss.plots.rate_similarity(
        *RECORDS.values(), layer=1, **given
    ),
    "sinks_by_rate": lambda **given: ss.plots.sinks_by_rate(RECORDS, SINKS, **given),
}


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.mark.parametrize("name", DRAW)
def test_drawn_where_told_and_settings_stay(name: str) -> None:
    before = dict(mpl.rcParams)
    own = DRAW[name]()
    assert own.figure is plt.gcf()
    _, given = plt.subplots(figsize=(9, 4))
    assert DRAW[name](ax=given) is given
    given.figure.canvas.draw()
    assert dict(mpl.rcParams) == before
    texts = " ".join(text.get_text() for text in own.texts)
    assert "planted · with BOS" in texts
    assert own.get_title("left")


def grids(ax: Axes) -> list[np.ndarray]:
    axes = [one for one in ax.figure.axes if one.images]
    return [np.asarray(one.images[0].get_array()) for one in axes]


def test_heat_maps_hold_the_usage_of_their_segment() -> None:
    found = grids(ss.plots.expert_usage(USAGE[FINE], segments=["audio", "video", "text"]))
    assert [grid.shape for grid in found] == [(2, 6), (2, 6)]
    assert found[0].argmax(1).tolist() == [5, 5]
    assert found[1].argmax(1).tolist() == [0, 1]
    rates = grids(ss.plots.expert_usage(USAGE, segments=["video"]))
    assert [grid.argmax(1).tolist() for grid in rates] == [[0, 1], [0, 1]]


def test_panels_share_one_scale() -> None:
    ax = ss.plots.expert_usage(USAGE)
    limits = {one.images[0].get_clim() for one in ax.figure.axes if one.images}
    assert len(limits) == 1


def test_dots_are_the_distances() -> None:
    ax = ss.plots.usage_distances(DISTANCES, segment="video")
    own = DISTANCES.loc[DISTANCES["segment"] == "video"]
    dots = [line.get_xdata() for line in ax.get_lines() if line.get_marker() == "o"]
    for drawn, (kind, column) in zip(
        dots,
        [(kind, column) for kind in ("rates", "layers") for column in ("tv", "control")],
        strict=True,
    ):
        assert list(drawn) == own.loc[own["kind"] == kind, column].tolist()


def test_the_matrix_has_its_dots_and_lines() -> None:
    ax = ss.plots.rate_similarity(*RECORDS.values(), layer=0, segment="video", sample=1)
    match = ss.clip_match(*RECORDS.values(), layer=0, segment="video", sample=1)
    lines = {str(line.get_label()): line.get_xydata() for line in ax.get_lines()}
    assert np.allclose(lines["best match"][:, 0], match.fine_seconds.mean(1))
    assert np.allclose(lines["best match"][:, 1], match.coarse_seconds[match.best].mean(1))
    assert np.allclose(lines["diagonal"][:, 0], lines["diagonal"][:, 1])
    (x0, y0), (x1, y1) = lines["fit"]
    assert (x1 - x0) / (y1 - y0) == pytest.approx(match.slope_seconds)
    assert "slope 2.5" in " ".join(text.get_text() for text in ax.texts).replace("2.49", "2.5")


def test_sinks_are_the_coloured_bars_at_their_seconds() -> None:
    ax = ss.plots.sinks_by_rate(RECORDS, SINKS, sample=1)
    filled = [bar for bar in ax.patches if bar.get_facecolor()[:3] == to_rgb(ACCENT)]
    spans = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in filled)
    assert np.allclose(spans, [(0.64, 1.28), (0.80, 0.96)])
    assert len(ax.patches) == 20 + 40 + 5 + 16
    strip = ax.figure.axes[-1]
    shown = [label.get_text() for label in strip.get_xticklabels()]
    assert shown == ["<s>", "</audio>"]
    states = [to_rgb(line.get_markerfacecolor()) == to_rgb(ACCENT) for line in strip.get_lines()]
    assert states == [False, True, True, False]


def test_a_model_without_sinks_has_no_strip() -> None:
    none = {pair: rate_record(pair, clips=1) for pair in (FINE, COARSE)}
    ax = ss.plots.sinks_by_rate(none, ss.sinks_by_rate(none, threshold=0.9))
    assert ax.figure.axes == [ax]


def test_a_clip_without_tokens_of_a_stream_at_some_rate_is_drawn() -> None:
    """12 frames are no token at audio rate 16."""
    short = {pair: rate_record(pair, clips=2, frames=12, sinks=("<s>",)) for pair in (FINE, COARSE)}
    for records in (short, dict(reversed(short.items()))):
        ax = ss.plots.sinks_by_rate(records, ss.sinks_by_rate(records), sample=1)
        assert len(ax.patches) == 3 + 6 + 0 + 2


def test_comparisons_at_one_rate_are_no_dots() -> None:
    pairs = [(a, v) for a in (4, 16) for v in (2, 5)]
    records = {pair: rate_record(pair, clips=2, routing=routed, mome=TOP) for pair in pairs}
    table = ss.usage_distances(records, draws=5)
    ax = ss.plots.usage_distances(table, segment="audio")
    dots = [line.get_xdata() for line in ax.get_lines() if line.get_marker() == "o"]
    assert [len(row) for row in dots] == [8, 8, 4, 4]
    only = table.loc[table["same_rate"].fillna(False)]
    only.attrs = table.attrs
    with pytest.raises(InputError, match="the audio rate is the same at all pairs"):
        ss.plots.usage_distances(only, segment="audio")


def test_wrong_tables_are_refused() -> None:
    with pytest.raises(InputError, match="give at least one"):
        ss.plots.expert_usage({})
    with pytest.raises(InputError, match="give at least one"):
        ss.plots.expert_usage(USAGE, segments=[])
    assert len(grids(ss.plots.expert_usage(USAGE[FINE], segments="audio"))) == 1
    with pytest.raises(InputError, match=r"sinkscope\.expert_usage returned"):
        ss.plots.expert_usage(DISTANCES)
    with pytest.raises(InputError, match="none of the segments"):
        ss.plots.expert_usage(USAGE[FINE], segments=["text"])
    with pytest.raises(InputError, match=r"sinkscope\.usage_distances returned"):
        ss.plots.usage_distances(SINKS)
    with pytest.raises(InputError, match="no segment 'text'"):
        ss.plots.usage_distances(DISTANCES, segment="text")
    with pytest.raises(InputError, match="sinks_by_rate returned"):
        ss.plots.sinks_by_rate(RECORDS, DISTANCES)


def test_tokens_of_one_label_are_told_apart() -> None:
    """Two delimiters that are called alike: one is a sink at the fine pair, one at the coarse."""
    records, wanted = {}, {FINE: "<audio>", COARSE: "<video>"}
    for pair, label in wanted.items():
        one = rate_record(pair, clips=1, sinks=(label,))
        layout = one.layouts[0]
        labels = ["<m>" if name in wanted.values() else name for name in layout.labels]
        alike = TokenLayout.of(layout.segments, labels, seconds=layout.seconds)
        variables = {name: one[name] for name in one if name != "length"}
        said = {k: v for k, v in one.provenance.items() if k != "schema_version"}
        records[pair] = ss.Record.of(variables, [alike], said, clips=one.clips)
    ax = ss.plots.sinks_by_rate(records, ss.sinks_by_rate(records))
    strip = next(one for one in ax.figure.axes if one.get_title() == "without seconds")
    words = [tick.get_text() for tick in strip.get_xticklabels()]
    assert words == ["<m>", "<m> (2)"]
    filled = [to_rgb(dot.get_markerfacecolor()) == to_rgb(ACCENT) for dot in strip.lines]
    assert filled == [True, False, False, True]


def test_the_subtitle_runs_over_all_panels() -> None:
    """Two narrow panels hold it in one line; beside more panels their names take two."""
    ax = ss.plots.expert_usage(USAGE)
    assert "\n" not in next(t.get_text() for t in ax.texts if "routed experts" in t.get_text())
    many = {(rate, 2): USAGE[FINE] for rate in range(1, 9)}
    ax = ss.plots.expert_usage(many)
    assert any(t.get_text().startswith("rates (1, 2):\n") for t in ax.texts)
    ax.figure.canvas.draw()
    widths = [one.get_position().width for one in ax.figure.axes if one.images]
    assert min(widths) > 0.8 * max(widths)
    gaps = np.diff([one.get_position().x0 for one in ax.figure.axes if one.images])
    assert gaps.max() < 1.3 * gaps.min()
