"""Cosine to BOS over layers: sinks one by one, the other tokens together."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sinkscope.analysis.similarity import bos_similarity, twins
from sinkscope.plots.captions import entitle, model_words
from sinkscope.plots.found import sinks_or_find
from sinkscope.plots.spread import spread
from sinkscope.plots.style import MUTED, drawing, name_line, plain
from sinkscope.record import Record

__all__ = ["bos_cosine"]

COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MOST_LINES = 6
TWIN = 0.8


def bos_cosine(
    record: Record, *, sinks: pd.DataFrame | None = None, ax: Axes | None = None
) -> Axes:
    """Cosine of tokens' states to BOS's, layer by layer.

    Intermediate sinks have a line each, named at its end, up to six; then twins of BOS that are
    no sinks, dashed, in the lines that are left. A line is the median over the samples' tokens of
    that label. All other tokens together are the grey median and the band from the first to the
    third quartile.

    Args:
        record: one or several samples.
        sinks: what ``find_sinks`` returned; with its default thresholds if left out.
        ax: where to draw; a new figure if left out.
    """
    table = bos_similarity(record)
    table = table.loc[~table["is_reference"] & (table["segment"] != "padding")]
    chosen, more = _chosen(record, sinks_or_find(record, sinks))
    named = table.merge(chosen, on=["sample", "token"], how="left")
    others = named[named["name"].isna()].groupby("layer")["cosine"]
    lines: Any = named.dropna(subset="name").groupby(["name", "layer"])["cosine"].median().unstack()
    order = list(dict.fromkeys(chosen["name"]))
    with drawing(ax, figsize=(6.4, 3.9)) as axes:
        middle = _draw_others(axes, others)
        _draw_lines(axes, lines.reindex(order), chosen)
        _name_ends(axes, lines.reindex(order), chosen, middle)
        axes.axhline(TWIN, color=MUTED, lw=0.8, ls=":")
        axes.set_ylim(min(-0.15, axes.get_ylim()[0]), 1.05)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("layer (0-based; papers count from 1)")
        axes.set_ylabel(f"cosine to {_reference_words(record)} (−1 to 1)")
        entitle(
            axes,
            f"Cosine to {_reference_words(record)} over layers",
            model_words(record.provenance),
            "resid_post",
            f"dotted: {TWIN}, above it a twin of BOS",
            f"{len(record)} samples" if len(record) > 1 else "",
            f"{more} further sinks and twins not drawn" if more else "",
        )
    return axes


def _reference_words(record: Record) -> str:
    return "BOS" if all(layout.has_bos for layout in record.layouts) else "the reference token"


def _chosen(record: Record, sinks: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The tokens that get a line (sample, token, name, is_sink), and how many names are left."""
    own = sinks.loc[sinks["kind"] == "intermediate"].sort_values("alpha", ascending=False)
    references = {(sample, layout.reference) for sample, layout in enumerate(record.layouts)}
    cells = zip(own["sample"].tolist(), own["token"].tolist(), strict=True)
    own = own.loc[[cell not in references for cell in cells]]  # its cosine to itself says nothing
    pairs = twins(record, cosine=TWIN).sort_values("cosine", ascending=False)
    rows = pd.concat([own.assign(is_sink=True), pairs.assign(is_sink=False)], ignore_index=True)
    rows = rows.drop_duplicates(["sample", "token"])
    single = len(record) == 1
    labels = [
        f"{plain(label)} ({token})" if single else plain(label)
        for label, token in zip(rows["label"], rows["token"], strict=True)
    ]
    rows = rows.assign(name=labels).loc[:, ["sample", "token", "name", "is_sink"]]
    names = list(dict.fromkeys(rows["name"]))
    return rows.loc[rows["name"].isin(names[:MOST_LINES])], max(0, len(names) - MOST_LINES)


def _draw_others(ax: Axes, others: Any) -> pd.Series:
    """Band and median of a grouped column; the median is returned."""
    low, middle, high = (others.quantile(q) for q in (0.25, 0.5, 0.75))
    ax.fill_between(middle.index, low, high, color="#C8C8C8", alpha=0.6, lw=0)
    ax.plot(middle.index, middle, color=MUTED, lw=1.4)
    return middle


def _is_sink(chosen: pd.DataFrame) -> dict[Any, bool]:
    """For each name whether one of its tokens is a sink."""
    pairs = list(zip(chosen["name"], chosen["is_sink"], strict=True))
    return {name: any(sink for other, sink in pairs if other == name) for name, _ in pairs}


def _draw_lines(ax: Axes, lines: pd.DataFrame, chosen: pd.DataFrame) -> None:
    """One line a name; dashed where it is no sink."""
    is_sink = _is_sink(chosen)
    for color, (name, values) in zip(COLORS, lines.iterrows(), strict=False):
        style = "-" if is_sink[name] else "--"
        ax.plot(values.index, values, color=color, ls=style, lw=1.8, marker="o", ms=3.5)


def _name_ends(ax: Axes, lines: pd.DataFrame, chosen: pd.DataFrame, others: pd.Series) -> None:
    """Write what each line is at its right end; the names keep apart."""
    is_sink = _is_sink(chosen)
    names = [f"{name}: {'sink' if is_sink[name] else 'twin, no sink'}" for name in lines.index]
    ends = [*(lines.iloc[:, -1] if len(lines) else []), *others.iloc[-1:]]
    colors = [*COLORS[: len(names)], MUTED]
    names.append("other tokens:\nmedian, quartiles")
    rows = sorted(zip(ends, names, colors, strict=False))
    sizes = [0.075 * (1 + name.count("\n")) for _, name, _ in rows]
    places = spread([end for end, _, _ in rows], sizes, low=ax.get_ylim()[0], high=1.05)
    for (end, name, color), place in zip(rows, places, strict=True):
        name_line(ax, name, end, place, color=color)
