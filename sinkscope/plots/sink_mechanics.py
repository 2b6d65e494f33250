"""Why sinks win over other tokens, layer by layer, and how large what they carry is."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from sinkscope.analysis.mechanics import sink_mechanics as mechanics_of
from sinkscope.errors import InputError
from sinkscope.plots.captions import count_words, entitle, model_words
from sinkscope.plots.divide import divide
from sinkscope.plots.style import ACCENT, MUTED, UNSEEN, drawing, plain
from sinkscope.record import Record

__all__ = ["sink_mechanics"]

PARTS = {
    "cosine_part": ("by direction (angle to the query)", "#0072B2"),
    "norm_part": ("by size (length of the key)", "#E69F00"),
}
RATIOS = {
    "residual_norm_ratio": ("state entering the layer", "black", "o"),
    "key_norm_ratio": ("key", "#E69F00", "s"),
    "value_norm_ratio": ("value", "#009E73", "D"),
}
HEADS = {0.0: "one head", 1.0: "one head that attends to it"}
SAID = 3
"""At most so many intermediate sinks are named."""


def sink_mechanics(mechanics: Record | pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Why the keys of sinks get a higher q·k than others, and what the sinks carry.

    Above, each layer's advantage in q·k is split into what the direction of the sink's key gives
    and what its length gives: bars that stack to the black mark, the mean over heads. A dash is
    one head, in colour where that head attends to the sink. Below, the norms of the sinks' keys,
    values and states as ratios to the median of the other tokens, on a logarithmic axis. Means
    are over sink tokens and samples; filter the table to see one of them alone.

    Args:
        mechanics: what ``sink_mechanics`` of the analysis returned, or a Record with q and k,
            whose sinks are then followed through all layers.
        ax: where to draw, its room is shared by the two; a new figure if left out.

    Raises:
        InputError: if the table is another one.
        SiteError: if the record holds no queries and keys.
    """
    table = mechanics_of(mechanics, everywhere=True) if isinstance(mechanics, Record) else mechanics
    if "cosine_part" not in table or "key_norm_others" not in table:
        raise InputError(
            "sink_mechanics: the table has no cosine_part; give sink_mechanics' or a Record."
        )
    width = min(14.0, max(7.2, 3.2 + 0.32 * len(set(table["layer"]))))
    with drawing(ax, figsize=(width, 5.6)) as axes:
        cells = divide(axes, widths=[1], heights=[1.5, 1])
        below = axes.figure.add_subplot(cells[1, 0], sharex=axes)
        if table.empty:
            axes.text(0.5, 0.5, "no attention sink", transform=axes.transAxes, ha="center")
        else:
            _shade(table, axes, below)
            _draw_parts(axes, table)
            _draw_ratios(below, table)
        axes.set_ylabel("q·k of sinks − q·k of others\n(before the model's scaling)")
        axes.tick_params(labelbottom=False)
        below.set_xlabel("layer (0-based; papers count from 1)")
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        below.set_ylabel("norm, ratio to the\nmedian of others")
        entitle(
            axes,
            "Why sinks draw attention",
            model_words(table.attrs),
            _tokens_words(table),
            "bars: mean over heads",
            count_words(table),
        )
    return axes


def _shade(table: pd.DataFrame, *panels: Axes) -> None:
    """A band behind the layers in which one of the tokens is a sink."""
    for layer in sorted(set(table.loc[table["sink_in_layer"].astype(bool), "layer"])):
        for panel in panels:
            panel.axvspan(layer - 0.5, layer + 0.5, color=UNSEEN, lw=0, zorder=0)


def _draw_parts(ax: Axes, table: pd.DataFrame) -> None:
    means: Any = table.groupby("layer")[[*PARTS, "advantage"]].mean()
    layers = means.index.to_numpy()
    above, under = np.zeros(len(means)), np.zeros(len(means))
    for name, (label, color) in PARTS.items():
        part = means[name].fillna(0).to_numpy(float)
        start = np.where(part >= 0, above, under)
        ax.bar(layers, part, 0.62, bottom=start, color=color, label=label, zorder=2)
        above, under = above + np.maximum(part, 0), under + np.minimum(part, 0)
    _draw_heads(ax, table)
    size = 22 * _room(table)
    ax.scatter(
        layers, means["advantage"], marker="D", s=size, color="black", label="both", zorder=4
    )
    ax.axhline(0, color=MUTED, lw=0.8)
    _explain(ax, marked=True in table["sink_in_layer"].tolist())


def _room(table: pd.DataFrame) -> float:
    """How large marks may be: 1 for few layers, less for many."""
    return min(1.0, max(0.25, 10 / len(set(table["layer"]))))


def _draw_heads(ax: Axes, table: pd.DataFrame) -> None:
    """A dash for every head, right of the layer's bar."""
    held_or_not = table.assign(held=table["sink_in_head"].fillna(False).astype(float))
    per_head: Any = held_or_not.groupby(["layer", "head"]).agg({"advantage": "mean", "held": "max"})
    size = 34 * _room(table)
    for held, color in ((0.0, MUTED), (1.0, ACCENT)):
        label = HEADS[held]
        rows = per_head.loc[per_head["held"] == held].reset_index()
        ax.scatter(
            rows["layer"] + 0.4, rows["advantage"], marker="_", s=size, color=color, label=label
        )


def _explain(ax: Axes, *, marked: bool) -> None:
    """The legend, in the order of reading."""
    handles, labels = ax.get_legend_handles_labels()
    entries = dict(zip(labels, handles, strict=True))
    shown = [*(label for label, _ in PARTS.values()), "both", *HEADS.values()]
    if marked:
        entries["layer where it is a sink"] = Patch(color=UNSEEN)
        shown.append("layer where it is a sink")
    ax.legend(
        [entries[label] for label in shown], shown, loc="center left", bbox_to_anchor=(1.0, 0.5)
    )


def _draw_ratios(ax: Axes, table: pd.DataFrame) -> None:
    ratios = table.assign(key_norm_ratio=table["key_norm"] / table["key_norm_others"])
    means: Any = ratios.groupby("layer")[list(RATIOS)].mean()
    for name, (label, color, marker) in RATIOS.items():
        if means[name].notna().any():
            ax.plot(means.index, means[name], color=color, marker=marker, ms=4, lw=1.4, label=label)
    ax.axhline(1, color=MUTED, lw=0.8, ls="--")
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _tokens_words(table: pd.DataFrame) -> str:
    """Which sinks the means are over."""
    tokens = table.drop_duplicates(["sample", "token"])
    others = list(dict.fromkeys(tokens.loc[tokens["kind"] != "bos", "label"]))
    named = ["BOS"] * bool((tokens["kind"] == "bos").any())
    named += [plain(label) for label in others[:SAID]]
    more = len(others) - SAID
    return f"sinks: {', '.join(named)}{f' and {more} more' if more > 0 else ''}" if named else ""
