"""Inherited or emerged: the norm of each sink's frames, at the entrance, and inside the LLM."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from sinkscope.errors import InputError
from sinkscope.plots.captions import entitle, model_words
from sinkscope.plots.style import MUTED, SEGMENT_COLORS, drawing

__all__ = ["sink_ancestry"]

_PLACES = {
    "encoder_ratio": "encoder's output\n(largest of its frames)",
    "projector_ratio": "entrance of the LLM\n(projector's output)",
    "llm_ratio": "LLM, before it\nis a sink",
}
NAMED = 6


def sink_ancestry(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Each sink's norm over the usual of its stream, at the places that it passes.

    A line is a token; it is high above the dashed line. The highest are named.

    Args:
        table: what ``sink_ancestry`` or ``follow_sinks`` returned.
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: if the table is another one.
    """
    if table.attrs.get("table") != "sink_ancestry":
        raise InputError("sink_ancestry: give the table that sink_ancestry or follow_sinks made.")
    with drawing(ax, figsize=(6.4, 3.9)) as axes:
        for segment, own in table.groupby("segment", sort=False):
            _lines(axes, own, str(segment))
        ratio = table.attrs["ratio"]
        axes.axhline(ratio, color=MUTED, lw=1, ls="--")
        axes.annotate(
            f"{ratio:g} × the median", (2.03, ratio), color=MUTED, fontsize=7, va="bottom"
        )
        _names(axes, table)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlim(-0.25, 2.6)
        axes.set_xticks(range(3), list(_PLACES.values()))
        axes.set_ylabel("norm over the median of its stream")
        axes.grid(axis="y", color="#E4E4E4", lw=0.6)
        if len(table):
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        else:
            axes.set_ylim(0.5, 2 * ratio)
            axes.text(0.5, 0.5, "no such token", transform=axes.transAxes, ha="center")
        what = "sink" if table.attrs["which"] == "sinks" else "token of high norm"
        counts = table["first_shown"].value_counts()
        shown = ", ".join(f"{number} {place}" for place, number in counts.items())
        entitle(
            axes,
            f"Where the norm of each {what} first shows",
            model_words(table.attrs),
            f"first high: {shown}" if shown else f"no {what} found",
        )
    return axes


def _lines(axes: Axes, own: pd.DataFrame, segment: str) -> None:
    color = SEGMENT_COLORS[segment]
    for i, ratios in enumerate(own[list(_PLACES)].to_numpy(float)):
        label = f"{segment} ({len(own)})" if i == 0 else None
        axes.plot(range(3), ratios, color=color, marker="o", ms=4, lw=1, alpha=0.8, label=label)


def _names(axes: Axes, table: pd.DataFrame) -> None:
    """The labels of the tokens with the largest norms, at the right end of their lines."""
    ratios = table[list(_PLACES)].to_numpy(float)
    peaks = np.nan_to_num(ratios).max(axis=1) if len(ratios) else np.zeros(0)
    ends: dict[tuple[int, float], list[str]] = {}
    for place in sorted(np.argsort(-peaks)[:NAMED]):
        known = np.flatnonzero(~np.isnan(ratios[place]))
        if len(known):
            at = int(known[-1])
            height = round(float(np.log10(ratios[place, at])) * 40) / 40
            ends.setdefault((at, height), []).append(str(table["label"].iloc[place]))
    for (at, height), labels in ends.items():
        axes.annotate(
            ", ".join(labels),
            (at, 10**height),
            xytext=(6, 0),
            textcoords="offset points",
            fontsize=7,
            va="center",
        )
