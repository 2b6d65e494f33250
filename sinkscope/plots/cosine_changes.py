"""Cosine to BOS over layers before and after: sinks, twins and the other tokens."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sinkscope.analysis.comparison import Comparison
from sinkscope.plots.captions import entitle
from sinkscope.plots.pair import AFTER, BEFORE, clip_words, pair_words
from sinkscope.plots.spread import spread
from sinkscope.plots.style import MUTED, drawing, name_line

__all__ = ["cosine_changes"]

NAME = 11.0
"""Points that a name takes."""

STYLES = {
    "sinks": ("-", "o", 2.0),
    "twins, no sinks": ("--", "s", 1.6),
    "other tokens": (":", ".", 1.6),
}
"""Line, marker and width of each group."""


def cosine_changes(found: Comparison, *, ax: Axes | None = None) -> Axes:
    """Cosine of the tokens' states to BOS's, layer by layer, before (grey) and after.

    The tokens are the same in both: those other than BOS that are a sink in any layer before or
    after (solid); twins of BOS in any layer before or after that are no sinks (dashed); all others
    (dotted, with the band from the first to the third quartile). A line is the median over tokens
    of all clips.

    Args:
        found: what ``compare`` returned.
        ax: where to draw; a new figure if left out.
    """
    table = found.similarity.assign(group=_groups(found))
    bos = "BOS" if all(table.attrs["bos_present"]) else "the reference token"
    limit = table.attrs["cosine"]
    with drawing(ax, figsize=(6.4, 3.9)) as axes:
        ends = []
        for group, (line, marker, width) in STYLES.items():
            own = table.loc[table["group"] == group]
            for side, color in (("before", BEFORE), ("after", AFTER)):
                if own.empty:
                    continue
                layers = own.groupby("layer")[f"cosine_{side}"]
                low, middle, high = (layers.quantile(q) for q in (0.25, 0.5, 0.75))
                if group == "other tokens":
                    axes.fill_between(middle.index, low, high, color=color, alpha=0.2, lw=0)
                style = {"ls": line, "marker": marker, "ms": 3.5, "lw": width}
                axes.plot(middle.index, middle, color=color, **style)
                tokens = len(own.drop_duplicates(["sample", "token"]))
                ends.append((float(middle.iloc[-1]), f"{group} ({tokens}), {side}", color))
        axes.axhline(limit, color=MUTED, lw=0.8, ls=(0, (1, 3)))
        axes.set_ylim(min(-0.15, axes.get_ylim()[0]), 1.05)
        layers = sorted(set(table["layer"].tolist()))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(layers[0] - 0.15, layers[-1] + 0.15)
        axes.set_xlabel("layer (0-based; papers count from 1)")
        axes.set_ylabel(f"cosine to {bos} (−1 to 1)")
        _name_ends(axes, ends)
        entitle(
            axes,
            f"Cosine to {bos} before and after",
            pair_words(found.before, found.after),
            clip_words(table),
            "medians over tokens, band: quartiles",
            f"twin: above {limit:g}",
        )
    return axes


def _groups(found: Comparison) -> list[str]:
    """The group of every row of the table of cosines, by its token."""
    table = found.similarity
    above = table[["cosine_before", "cosine_after"]].max(axis=1) > table.attrs["cosine"]
    twins = _tokens(table.loc[above])
    sinks = _tokens(found.sinks)
    names = tuple(STYLES)
    return [
        names[0] if cell in sinks else names[1] if cell in twins else names[2]
        for cell in zip(table["sample"], table["token"], strict=True)
    ]


def _tokens(table: pd.DataFrame) -> set[tuple[int, int]]:
    return set(zip(table["sample"].tolist(), table["token"].tolist(), strict=True))


def _name_ends(ax: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write what each line is at its right end; the names keep apart."""
    rows = sorted(ends)
    low, high = ax.get_ylim()
    points = 0.85 * ax.get_window_extent().height * 72 / ax.figure.dpi  # the layout may shrink it
    size = max(0.05, NAME / points) * (high - low)
    places = spread([end for end, _, _ in rows], [size] * len(rows), low=low, high=high)
    for (end, name, color), place in zip(rows, places, strict=True):
        darker = "#5A5A5A" if color == BEFORE else color
        name_line(ax, name, end, place, color=darker)
