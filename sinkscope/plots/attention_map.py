"""The attention map of one layer or head, with the segments along both axes."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from sinkscope.plots.captions import (
    entitle,
    layer_words,
    model_words,
    refuse_sample,
    sample_words,
)
from sinkscope.plots.found import sinks_or_find, tokens_of
from sinkscope.plots.grid import show_grid
from sinkscope.plots.maps import attention_grid
from sinkscope.plots.segments import draw_bands, label_tokens, tokens_to_label
from sinkscope.plots.style import drawing
from sinkscope.record import Record

__all__ = ["attention_map"]

EVEN_SHARE = 0.2
"""Where on the colour scale (0 to 1) the weight lies that each of T keys would get if all got the
same. On a straight scale it would be at 1 / T, and a sink of .8 would hide everything else."""

TICKS = (0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.7, 1)


def attention_map(
    record: Record,
    *,
    layer: int,
    head: int | None = None,
    sample: int = 0,
    sinks: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Who attends to whom: rows are queries, columns keys; a sink is a bright column.

    Colours follow a power of the weight, chosen so that an even share (1 / T) lies at a fifth of
    the scale: a sink and the faint pattern beside it both show. The colour bar is labelled in
    plain weights. Grey cells are keys that the query cannot see (later tokens; in an encoder there
    are none). Sinks are named in bold and colour.

    Args:
        record: holds the maps: record with ``keep=["pattern"]``, or ``PatternBins`` for long
            inputs, where each cell is the mean over the weights of a bin.
        layer: 0-based block.
        head: one head; the mean over all heads if left out.
        sample: which sample.
        sinks: what ``find_sinks`` returned; with its default thresholds if left out.
        ax: where to draw; a new figure if left out.

    Raises:
        SiteError: if the record holds no maps.
        InputError: if it has no such sample, or no map of that layer or head.
    """
    refuse_sample(record, sample, where="attention_map")
    grid = attention_grid(record, sample=sample, layer=layer, head=head)
    layout = record.layouts[sample]
    found = tokens_of(sinks_or_find(record, sinks), sample=sample, layer=layer)
    exponent = min(1.0, np.log(EVEN_SHARE) / -np.log(max(len(layout), 2)))
    with drawing(ax, figsize=(6.8, 6.8)) as axes:
        show_grid(
            axes,
            grid.values,
            extent=grid.extent,
            norm=PowerNorm(exponent, vmin=0, vmax=float(np.nanmax(grid.values))),
            label=f"attention weight (power scale, exponent {exponent:.2f})",
            ticks=TICKS,
        )
        axes.set_xlim(-0.5, len(layout) - 0.5)
        axes.set_ylim(len(layout) - 0.5, -0.5)
        axes.set_ylabel("query (token that attends)", labelpad=12)
        draw_bands(axes, layout, side="top")
        draw_bands(axes, layout, side="left", names=False)
        label_tokens(
            axes,
            layout,
            tokens_to_label(layout, found),
            bold=found,
            title="key (token that is attended to)",
        )
        entitle(
            axes,
            "Attention map",
            model_words(record.provenance),
            layer_words(layer),
            grid.averaging,
            sample_words(record, sample),
            f"cells of {grid.width} × {grid.width} tokens" if grid.width > 1 else "",
            above=26,
        )
    return axes
