"""What every figure promises: the axes that were given, words on them, nothing left behind."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes

from tests.fake_queries import with_queries
from tests.fake_records import PLANTED, fake_av_record, record_from, uniform_map

mpl.use("Agg")

import matplotlib.pyplot as plt

from sinkscope import plots
from sinkscope.errors import InputError, SiteError
from sinkscope.layout import TokenLayout
from sinkscope.record import Record, merge

Draw = Callable[..., Axes]

GREY = np.linspace(0, 255, 40 * 60).reshape(40, 60)


def with_patches(record: Record) -> Record:
    """The record with the film's tokens in frames of 2 by 3 patches."""
    layouts = []
    for layout in record.layouts:
        places = np.flatnonzero(layout.mask("video"))
        described = dict(layout.descriptors)
        order = np.arange(len(places)) % 6
        for name, values in (("row", order // 3), ("column", order % 3), ("item", 0 * order)):
            described[name] = np.full(len(layout), np.nan)
            described[name][places] = values
        layouts.append(replace(layout, descriptors=described))
    return Record(record.dataset, tuple(layouts), record.provenance, record.clips)


FIGURES: dict[str, Draw] = {
    "attention_map": lambda record, **more: plots.attention_map(record, layer=3, **more),
    "bos_cosine": plots.bos_cosine,
    "layer_magnitudes": plots.layer_magnitudes,
    "magnitudes": lambda record, **more: plots.magnitudes(record, layer=3, **more),
    "magnitudes_3d": lambda record, **more: plots.magnitudes_3d(record, layer=3, **more),
    "segment_flow": plots.segment_flow,
    "sink_mechanics": lambda record, **more: plots.sink_mechanics(with_queries(record), **more),
    "sink_rate": plots.sink_rate,
    "sinks_on_frame": lambda record, **more: plots.sinks_on_frame(
        with_patches(record), GREY, **more
    ),
    "sinks_over_time": plots.sinks_over_time,
}
MEANS = {
    *("attention_map", "segment_flow", "sink_mechanics", "sink_rate"),
    *("sinks_on_frame", "sinks_over_time"),
}
OF_TABLES = ("birth", "effects", "input_controls", "neurons", "sink_ancestry")
"""Figures of what was computed from several records; tested where that is."""
OF_PAIRS = (
    "attention_changes",
    "before_after",
    "cosine_changes",
    "feature_changes",
    "sink_changes",
)
"""Figures of two models: see test_plots_compare."""
OF_RATES = ("expert_usage", "rate_similarity", "sinks_by_rate", "usage_distances", "wer_by_tokens")
"""Figures of several rates: see test_plots_rates and test_plots_wer_by_tokens."""
ONE_LAYER = {"attention_map", "magnitudes", "magnitudes_3d", "sinks_on_frame", "sinks_over_time"}
OF_CLIPS = {"sinks_over_time", "sinks_on_frame"}


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def short() -> Record:
    return fake_av_record(60)


@pytest.fixture(scope="module")
def long() -> Record:
    return fake_av_record(300)


def words(axes: Axes) -> str:
    texts = [axes.get_title(), axes.get_title("left"), *(text.get_text() for text in axes.texts)]
    return " ".join(" ".join(texts).split())


def test_every_public_plot_is_here() -> None:
    assert sorted([*FIGURES, *OF_TABLES, *OF_PAIRS, *OF_RATES]) == sorted(plots.__all__)


@pytest.mark.parametrize("name", FIGURES)
def test_draws_on_the_given_axes(name: str, short: Record) -> None:
    projection = "3d" if name == "magnitudes_3d" else None
    figure = plt.figure()
    axes = figure.add_subplot(2, 2, 3, projection=projection)
    assert FIGURES[name](short, ax=axes) is axes
    assert plt.get_fignums() == [figure.number]
    assert all(other.figure is figure for other in figure.axes)
    figure.canvas.draw()


@pytest.mark.parametrize("name", FIGURES)
def test_makes_one_figure_and_changes_no_setting(name: str, short: Record) -> None:
    before = dict(mpl.rcParams)
    axes = FIGURES[name](short)
    assert dict(mpl.rcParams) == before
    assert len(plt.get_fignums()) == 1
    assert axes.figure is plt.gcf()


@pytest.mark.parametrize("name", FIGURES)
def test_says_what_it_is(name: str, short: Record) -> None:
    axes = FIGURES[name](short)
    last = axes if axes.get_xlabel() else axes.figure.axes[-1]
    assert last.get_xlabel()
    assert axes.get_ylabel()
    assert "fake-avsr · with BOS" in words(axes)
    assert ("paper: 4" in words(axes) or "paper: 3" in words(axes)) == (name in ONE_LAYER)
    if name in MEANS:
        assert "mean over" in words(axes)


@pytest.mark.parametrize("name", FIGURES)
def test_labels_stay_apart_at_300_tokens(name: str, long: Record) -> None:
    axes = FIGURES[name](long)
    figure = axes.figure
    figure.canvas.draw()
    frame = figure.get_window_extent()
    boxes = []
    for panel in figure.axes:
        for text in panel.texts:
            if text.get_visible() and text.get_text().strip():
                boxes.append((text.get_text(), mpl.text.Text.get_window_extent(text)))
    for i, (one, a) in enumerate(boxes):
        assert frame.x0 - 1 <= a.x0, one
        assert a.x1 <= frame.x1 + 1, one
        for other, b in boxes[i + 1 :]:
            width = min(a.x1, b.x1) - max(a.x0, b.x0)
            height = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert min(width, height) < 1.5, f"{one!r} lies on {other!r}"


HOSTILE = (r"$x_", r"$\frac{", "_hidden", "a\nb\tc", "\u4f60\u597d", "<script>", "\\$", "")


@pytest.mark.parametrize("name", FIGURES)
def test_any_text_can_be_drawn(name: str, short: Record) -> None:
    layout = short.layouts[0]
    labels = tuple(HOSTILE[i % len(HOSTILE)] for i in range(len(layout)))
    clip = replace(short.clips[0], name=r"clip_$\frac{1}$") if short.clips[0] else None
    hostile = Record(
        short.dataset,
        (replace(layout, labels=labels),),
        {**short.provenance, "subject": r"model_$x$_\u4f60"},
        (clip,),
    )
    axes = FIGURES[name](hostile)
    axes.figure.canvas.draw()
    drawn = [text.get_text() for text in axes.texts]
    assert not any(mpl.cbook.is_math_text(text) for text in drawn)


def test_a_tall_figure_fits_where_axes_were_placed_by_hand(short: Record) -> None:
    figure = plt.figure(figsize=(10, 6))
    axes = figure.add_axes((0.1, 0.2, 0.6, 0.5))
    plots.sinks_over_time(short, ax=axes)
    figure.canvas.draw()
    assert len(figure.axes) == 3
    for panel in figure.axes:
        box = panel.get_position()
        assert box.x0 >= 0.1 - 1e-6
        assert box.x1 <= 0.7 + 1e-6
        assert box.y0 >= 0.2 - 1e-6
        assert box.y1 <= 0.7 + 1e-6


def text_record() -> Record:
    layout = TokenLayout.of_text(list("abcdefghijkl"), has_bos=False)
    states = np.random.default_rng(0).normal(size=(2, 12, 16))
    pattern = np.broadcast_to(uniform_map(12), (2, 3, 12, 12))
    return record_from(pattern, states, layout, keep=["pattern"], prepend_bos=False)


def test_text_without_bos_and_without_sinks() -> None:
    record = text_record()
    for name in set(FIGURES) - {*OF_CLIPS, "attention_map", "magnitudes", "magnitudes_3d"}:
        axes = FIGURES[name](record)
        axes.figure.canvas.draw()
        assert "without BOS" in words(axes)
    assert "the reference" in words(plots.sink_rate(record))
    assert "none massive" in words(plots.magnitudes(record, layer=1))
    plots.magnitudes_3d(record, layer=1).figure.canvas.draw()
    shown = [text.get_text() for text in plots.attention_map(record, layer=1).texts]
    assert "a (0)" in shown
    assert "l (11)" in shown


def test_a_reference_token_that_is_a_sink_without_bos() -> None:
    layout = TokenLayout.of_text([f"t{i}" for i in range(30)], has_bos=False)
    pattern = np.full((2, 4, 30, 30), 0.0)
    pattern[..., 0] = 1.0
    states = np.random.default_rng(0).normal(size=(2, 30, 16))
    record = record_from(pattern, states, layout, prepend_bos=False)
    axes = plots.bos_cosine(record)
    axes.figure.canvas.draw()
    assert "t0" not in words(axes)


def test_refusals_say_what_to_do(short: Record) -> None:
    bare = fake_av_record(60, keep=())
    with pytest.raises(SiteError, match="pattern"):
        plots.attention_map(bare, layer=3)
    with pytest.raises(InputError, match=r"layer.*17"):
        plots.attention_map(short, layer=17)
    with pytest.raises(InputError, match="no head 4; there are 0 to 3"):
        plots.attention_map(short, layer=3, head=4)
    with pytest.raises(InputError, match="no sample 1"):
        plots.attention_map(short, layer=3, sample=1)
    with pytest.raises(InputError, match="no token has seconds"):
        plots.sinks_over_time(text_record())
    with pytest.raises(InputError, match="layer 6 was not recorded"):
        plots.sinks_over_time(short, layer=6)
    with pytest.raises(InputError, match="no token 60"):
        plots.sink_rate(short, token=60)
    with pytest.raises(InputError, match="projection"):
        plots.magnitudes_3d(short, layer=3, ax=plt.figure().add_subplot())
    with pytest.raises(InputError, match="layer 9 was not recorded"):
        plots.magnitudes(short, layer=9)
    with pytest.raises(InputError, match="query_segment"):
        plots.segment_flow(plots_table())
    with pytest.raises(InputError, match="top1"):
        plots.layer_magnitudes(plots_table())
    with pytest.raises(InputError, match="cosine_part"):
        plots.sink_mechanics(plots_table())
    with pytest.raises(SiteError, match="no q and no k"):
        plots.sink_mechanics(short)
    assert not plt.get_fignums() or len(plt.get_fignums()) == 1  # only the flat axes above


def plots_table():
    from sinkscope.analysis import find_sinks

    return find_sinks(fake_av_record(60, keep=()))


def test_sinks_are_named_in_bold(short: Record) -> None:
    axes = plots.attention_map(short, layer=3)
    bold = {text.get_text() for text in axes.texts if text.get_fontweight() == "bold"}
    assert {f"{PLANTED.bos} (0)", f"{PLANTED.sink} (25)"} <= bold
    assert not any(text.startswith("<video>") for text in bold)
    none = plots.attention_map(short, layer=0)
    assert not any(
        text.get_text().startswith("<s>") and text.get_fontweight() == "bold" for text in none.texts
    )


def test_samples_of_unequal_length() -> None:
    record = merge([fake_av_record(60), fake_av_record(90, seed=1)])
    for name, draw in FIGURES.items():
        draw(record).figure.canvas.draw()
        if name in ONE_LAYER:
            draw(record, sample=1).figure.canvas.draw()
    assert "2 samples" in words(plots.bos_cosine(record))


def test_a_notebook_goes_on_showing_figures() -> None:
    """Jupyter's backend turns interactive at the first figure, which may be drawn in our style."""
    from sinkscope.plots.style import drawing

    was = mpl.is_interactive()
    try:
        mpl.interactive(False)
        with drawing(None, figsize=(1, 1)) as axes:
            mpl.interactive(True)
        assert mpl.is_interactive()
        plt.close(axes.figure)
    finally:
        mpl.interactive(was)
