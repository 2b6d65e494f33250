"""One picture of two models: the numbers, the maps before and after, features and cosines."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine

from sinkscope.analysis.compare import compare
from sinkscope.analysis.comparison import Comparison
from sinkscope.analysis.words_comparison import FEW_CLIPS
from sinkscope.errors import InputError
from sinkscope.plots.attention_changes import draw_maps
from sinkscope.plots.captions import entitle
from sinkscope.plots.cosine_changes import cosine_changes
from sinkscope.plots.divide import divide
from sinkscope.plots.feature_changes import feature_changes
from sinkscope.plots.maps import has_map
from sinkscope.plots.pair import AFTER, clip_words, pair_words, shown, sinks_of
from sinkscope.plots.style import MUTED, drawing
from sinkscope.record import Record

__all__ = ["before_after"]

TOLD = {
    "wer": "word error rate",
    "intermediate_sinks": "sinks other than BOS, a clip",
    "other_alpha": "key attention of another token",
    "bos_alpha": "key attention of BOS",
    "twins": "twins of BOS, a clip",
    "largest_ratio": "largest |x| / median",
}
"""The numbers at the top, those that there are."""

MOST_FEATURES = 5


def before_after(
    before: Record,
    after: Record,
    comparison: Comparison | None = None,
    *,
    layer: int | None = None,
    sample: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What a fine-tuning changed, on one picture of 16 to 9.

    At the top the numbers, means over clips, with the 95 % interval of the change; below the
    attention maps on one scale, the largest massive features, and the cosines to BOS.

    Args:
        before: holds the maps: record with ``keep=["pattern"]`` or ``PatternBins``.
        after: of the same tokens.
        comparison: what ``compare`` returned; with the default thresholds if left out.
        layer: 0-based block of the maps; where the attention to a sink moves most if left out.
        sample: sample of the maps; likewise.
        ax: where to draw, its room is shared; a new figure if left out.

    Returns:
        The axes of the numbers.

    Raises:
        InputError: if the two cannot be compared, or hold no map of the layer.
    """
    found = compare(before, after) if comparison is None else comparison
    place = shown(found) or (0, before.layers[-1])
    sample, layer = (place[0] if sample is None else sample), (place[1] if layer is None else layer)
    for record in (before, after):
        if not has_map(record, layer):
            raise InputError(
                f"before_after: a record holds no attention map of layer {layer}; record both "
                'with keep=["pattern"].'
            )
    with drawing(ax, figsize=(14.4, 8.1)) as axes:
        if ax is None:
            _leave_margins(axes)
        cells = divide(axes, widths=[1], heights=[0.13, 1])
        grid = cells[1, 0].subgridspec(2, 4, width_ratios=[1, 1.13, 0.05, 0.82])
        figure = axes.figure
        left, right = (figure.add_subplot(grid[:, place]) for place in (0, 1))
        _draw_numbers(axes, found)
        draw_maps((left, right), (before, after), layer=layer, sample=sample, sinks=sinks_of(found))
        bars, curves = (figure.add_subplot(grid[place, 3]) for place in (0, 1))
        feature_changes(found, most=MOST_FEATURES, ax=bars)
        bars.set_xlabel("largest |x|, mean over clips")
        cosine_changes(found, ax=curves)
        curves.set_xlabel("layer (0-based)")
    return axes


def _leave_margins(ax: Axes) -> None:
    """Room around the panels of the picture's own figure."""
    figure = ax.get_figure(root=True)
    engine = None if figure is None else figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(w_pad=0.12, h_pad=0.12)


def _draw_numbers(ax: Axes, found: Comparison) -> None:
    """One number after the other: what it is, before and after, and the interval."""
    effects = {row["metric"]: row for row in found.effects.to_dict("records")}
    told = [name for name in TOLD if name in effects]
    ax.set_axis_off()
    ax.set_xlim(0, len(told))
    ax.set_ylim(0, 1)
    for place, name in enumerate(told):
        row = effects[name]
        ax.text(place, 0.98, TOLD[name], va="top", fontsize=8.5, color=MUTED)
        ax.text(place, 0.36, _moved(row), va="center", fontsize=15, fontweight="bold")
        moves = row["clips"] >= FEW_CLIPS and (row["low"] > 0 or row["high"] < 0)
        ax.text(place, -0.02, _interval(row), fontsize=8.5, color=AFTER if moves else MUTED)
    entitle(
        ax,
        "Before and after",
        pair_words(found.before, found.after),
        f"means over {clip_words(found.effects)}",
        "few clips: the 95 % intervals are too narrow"
        if max(row["clips"] for row in effects.values()) < FEW_CLIPS
        else "in colour: the 95 % interval of the change does not reach 0",
    )


def _moved(row: dict[Any, Any]) -> str:
    return f"{_number(row, 'before')} → {_number(row, 'after')}{' %' * (row['metric'] == 'wer')}"


def _interval(row: dict[Any, Any]) -> str:
    if row["low"] != row["low"]:  # NaN
        return "one clip: no interval"
    low, high = (_number(row, name, signed=True) for name in ("low", "high"))
    return f"change {low} to {high}{' points' * (row['metric'] == 'wer')}"


def _number(row: dict[Any, Any], name: str, *, signed: bool = False) -> str:
    value = row[name] * (100 if row["metric"] == "wer" else 1)
    text = f"{value:.1f}" if row["metric"] == "wer" else f"{value:.2g}"
    text = f"{value:.0f}" if abs(value) >= 100 else text
    if float(text) == 0:
        return "0"
    return f"+{text}" if signed and value > 0 else text
