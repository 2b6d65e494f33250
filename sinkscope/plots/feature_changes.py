"""Massive features before and after: a pair of bars for each."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from sinkscope.analysis.comparison import Comparison
from sinkscope.plots.captions import entitle
from sinkscope.plots.found import refuse_layer
from sinkscope.plots.pair import AFTER, BEFORE, clip_words, pair_words
from sinkscope.plots.style import MUTED, drawing

__all__ = ["feature_changes"]

HALF = 0.36
"""Height of a bar; a pair takes two."""


def feature_changes(
    found: Comparison, *, layer: int | None = None, most: int = 10, ax: Axes | None = None
) -> Axes:
    """How large each massive feature is before and after.

    A bar is the largest |x| over tokens (and over layers, where no layer is chosen), mean over
    clips. The thin line on the lower bar is the 95 % interval of the change, set at the size
    before. "≤": the record knows it from above only.

    Args:
        found: what ``compare`` returned.
        layer: 0-based block; the largest over all of them if left out.
        most: how many features, the largest first.
        ax: where to draw; a new figure if left out.
    """
    table = found.features
    if layer is not None:
        refuse_layer(layer, found.layers["layer"].tolist(), where="feature_changes")
    own = table.loc[table["layer"].isna() if layer is None else table["layer"] == layer]
    rows = own.head(most).to_dict("records")
    with drawing(ax, figsize=(6.4, 1.9 + 0.42 * max(len(rows), 2))) as axes:
        for place, row in enumerate(rows):
            _draw_pair(axes, place, row)
        if not rows:
            axes.text(0.5, 0.5, "no massive feature", transform=axes.transAxes, ha="center")
        axes.set_yticks(range(len(rows)), [f"{row['feature']}  {row['status']}" for row in rows])
        for text, row in zip(axes.get_yticklabels(), rows, strict=True):
            text.set(fontweight="normal" if row["status"] == "kept" else "bold")
        axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
        axes.set_xlim(0, 1.25 * max([_end(row) for row in rows], default=1.0))
        axes.tick_params(axis="y", length=0)
        axes.set_ylabel("feature (index)")
        where = "largest over layers" if layer is None else f"layer {layer}"
        axes.set_xlabel(f"largest |x| over tokens, {where}, mean over clips")
        left_out = f"{len(own) - most} smaller ones not drawn" if len(own) > most else ""
        entitle(
            axes,
            "Massive features before and after",
            pair_words(found.before, found.after),
            clip_words(table),
            f"massive: |x| ≥ {table.attrs['ratio_threshold']:g} × median",
            left_out,
        )
    return axes


def _draw_pair(ax: Axes, place: int, row: dict[Any, Any]) -> None:
    sides = (("before", -HALF / 2, BEFORE), ("after", HALF / 2, AFTER))
    for side, shift, color in sides:
        size = row[f"magnitude_{side}"]
        ax.barh(place + shift, size, HALF, color=color)
        end = size
        if side == "after":
            ends = row["magnitude_before"] + np.array([row["low"], row["high"]])
            if np.isfinite(ends).all():
                ax.plot(ends, [place + shift] * 2, color="black", lw=1)
                end = max(end, float(ends.max()))
        most = "≤ " if row[f"at_most_{side}"] else ""
        name = f" {side}" if place == 0 else ""
        ax.annotate(
            f"{most}{size:.0f}{name}" if size >= 1000 else f"{most}{size:.3g}{name}",
            (end, place + shift),
            (3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            fontweight="bold" if name else "normal",
            color=MUTED if side == "before" else color,
        )


def _end(row: dict[Any, Any]) -> float:
    high = row["magnitude_before"] + row["high"]
    ends = (row["magnitude_before"], row["magnitude_after"], high)
    return max(end for end in ends if np.isfinite(end))
