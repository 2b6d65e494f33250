"""Attention maps of two models on one scale, and their difference."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm, SymLogNorm

from sinkscope.plots.attention_map import EVEN_SHARE, TICKS
from sinkscope.plots.captions import entitle, layer_words, model_words, sample_words
from sinkscope.plots.divide import divide
from sinkscope.plots.found import sinks_or_find, tokens_of
from sinkscope.plots.grid import show_grid
from sinkscope.plots.maps import AttentionGrid, attention_grid
from sinkscope.plots.pair import refuse_unlike
from sinkscope.plots.segments import draw_bands, label_tokens, tokens_to_label
from sinkscope.plots.style import drawing, plain
from sinkscope.record import Record

__all__ = ["attention_changes", "draw_maps"]

DIFFERENCES = "RdBu_r"
"""Diverging colour map of differences: blue is less, red more; colour-blind readers see both."""

DIFFERENCE_TICKS = (-1, -0.5, -0.2, -0.1, -0.05, 0, 0.05, 0.1, 0.2, 0.5, 1)
STRAIGHT = 0.05
"""Differences up to this are drawn on a straight scale, larger ones on a logarithmic."""

FEW_QUERIES = 8
"""A key that fewer queries see is not named."""

LEAST = 0.001
"""Nor is one that moves by less, mean over the queries."""


def attention_changes(
    before: Record,
    after: Record,
    *,
    layer: int,
    head: int | None = None,
    sample: int = 0,
    sinks: tuple[pd.DataFrame, pd.DataFrame] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Who attends to whom before, after, and what moved.

    The two maps have one colour scale (see ``attention_map``). In the difference, after - before,
    white is no change, red more attention and blue less, to the same depth for the same amount.

    Args:
        before: holds the maps: record with ``keep=["pattern"]`` or ``PatternBins``.
        after: of the same tokens.
        layer: 0-based block.
        head: one head; the mean over all heads if left out.
        sample: which sample.
        sinks: what ``find_sinks`` returned for both; with its default thresholds if left out.
        ax: where to draw, its room is shared by the three maps; a new figure if left out.

    Returns:
        The axes of the map before.

    Raises:
        SiteError: if a record holds no maps.
        InputError: if the tokens differ, or there is no map of that layer or head.
    """
    with drawing(ax, figsize=(15.5, 5.6)) as axes:
        cells = divide(axes, widths=[1.0, 1.12, 0.07, 1.12], heights=[1])
        figure = axes.figure
        others = [figure.add_subplot(cells[0, place]) for place in (1, 3)]
        grids = draw_maps(
            (axes, others[0]), (before, after), layer=layer, head=head, sample=sample, sinks=sinks
        )
        _draw_difference(others[1], grids, before, sample)
    return axes


def draw_maps(
    panels: tuple[Axes, Axes],
    records: tuple[Record, Record],
    *,
    layer: int,
    head: int | None = None,
    sample: int = 0,
    sinks: tuple[pd.DataFrame, pd.DataFrame] | None = None,
) -> tuple[AttentionGrid, AttentionGrid]:
    """The maps of both records side by side, on one colour scale; the second has its bar."""
    refuse_unlike(*records, sample, where="attention_changes")
    one, other = (attention_grid(r, sample=sample, layer=layer, head=head) for r in records)
    layout = records[0].layouts[sample]
    largest = max(float(np.nanmax(grid.values)) for grid in (one, other))
    exponent = min(1.0, np.log(EVEN_SHARE) / -np.log(max(len(layout), 2)))
    tables = sinks or (None, None)
    for place, (axes, record, grid) in enumerate(zip(panels, records, (one, other), strict=True)):
        found = tokens_of(sinks_or_find(record, tables[place]), sample=sample, layer=layer)
        show_grid(
            axes,
            grid.values,
            extent=grid.extent,
            norm=PowerNorm(exponent, vmin=0, vmax=largest),
            label=f"attention weight (power scale, exponent {exponent:.2f})",
            ticks=TICKS,
            bar=place == 1,
        )
        _name_axes(axes, record, sample, found, queries=place == 0)
        entitle(
            axes,
            ("Before", "After")[place],
            model_words(record.provenance),
            layer_words(layer),
            grid.averaging,
            sample_words(record, sample),
            f"cells of {grid.width} × {grid.width} tokens" if grid.width > 1 else "",
            above=26,
        )
    return one, other


def _draw_difference(
    ax: Axes, grids: tuple[AttentionGrid, AttentionGrid], record: Record, sample: int
) -> None:
    moved = grids[1].values - grids[0].values
    largest = max(float(np.nanmax(np.abs(moved))), STRAIGHT)
    show_grid(
        ax,
        moved,
        extent=grids[0].extent,
        norm=SymLogNorm(STRAIGHT, vmin=-largest, vmax=largest),
        label=f"attention weight, after - before (logarithmic beyond ±{STRAIGHT:g})",
        ticks=DIFFERENCE_TICKS,
        colors=DIFFERENCES,
    )
    _name_axes(ax, record, sample, [], queries=False)
    entitle(ax, "Difference", *_moved_words(moved, grids[0].width, record, sample), above=26)


def _moved_words(moved: np.ndarray, width: int, record: Record, sample: int) -> list[str]:
    """Which keys gain and lose most, mean over the queries that see them, where enough do."""
    seen = np.isfinite(moved).sum(0)
    keys = np.flatnonzero(seen * width >= FEW_QUERIES)
    if not len(keys):
        return []
    means = np.nansum(moved, 0)[keys] / seen[keys]
    if np.abs(means).max() < LEAST:
        return [f"no key gains or loses {LEAST:g} a query"]
    labels = record.layouts[sample].labels
    words = []
    for what, place in (("gains", means.argmax()), ("loses", means.argmin())):
        label = ("tokens from " if width > 1 else "") + plain(labels[keys[place] * width])
        words.append(f"{what} most: {label} ({means[place]:+.2g} a query)")
    return words


def _name_axes(ax: Axes, record: Record, sample: int, found: list[int], *, queries: bool) -> None:
    layout = record.layouts[sample]
    ax.set_xlim(-0.5, len(layout) - 0.5)
    ax.set_ylim(len(layout) - 0.5, -0.5)
    if queries:
        ax.set_ylabel("query (token that attends)", labelpad=12)
    else:
        ax.tick_params(axis="y", labelleft=False)
    draw_bands(ax, layout, side="top")
    draw_bands(ax, layout, side="left", names=False)
    title = "key (token that is attended to)"
    label_tokens(ax, layout, tokens_to_label(layout, found), bold=found, title=title)
