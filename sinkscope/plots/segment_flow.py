"""How much of each segment's attention goes to each segment."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from sinkscope.analysis.flow import segment_attention
from sinkscope.errors import InputError
from sinkscope.glossary import SEGMENTS
from sinkscope.plots.captions import count_words, entitle, layer_words, model_words
from sinkscope.plots.found import refuse_layer
from sinkscope.plots.grid import show_grid, write_cells
from sinkscope.plots.style import SEGMENT_COLORS, drawing
from sinkscope.record import Record

__all__ = ["segment_flow"]

WIDEST_TITLE = 5.4
"""Inches that the title needs, however few segments there are."""


def segment_flow(
    flow: Record | pd.DataFrame, *, layer: int | None = None, ax: Axes | None = None
) -> Axes:
    """Share of the attention of one segment's tokens (a row) that each segment receives.

    Rows sum to 1 unless the model withholds attention (learned sinks). Mean over heads and
    samples, and over layers unless one is chosen.

    Args:
        flow: a Record, or what ``segment_attention`` returned.
        layer: 0-based block; the mean over all layers if left out.
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: if there is no such layer, or the table is another one.
    """
    table = segment_attention(flow) if isinstance(flow, Record) else flow
    if "query_segment" not in table:
        raise InputError(
            "segment_flow: the table has no query_segment; give a Record or segment_attention's."
        )
    layers = sorted({int(one) for one in table["layer"]})
    if layer is not None:
        refuse_layer(layer, layers, where="segment_flow")
        table = table.loc[table["layer"] == layer]
    names = [name for name in SEGMENTS if name in set(table["query_segment"])]
    cells = _cells(table, names)
    side = 2.6 + 0.52 * len(names)
    with drawing(ax, figsize=(max(side + 0.6, WIDEST_TITLE), side)) as axes:
        image = show_grid(
            axes, cells, norm=Normalize(0, 1), label="share of the row's attention (0–1)"
        )
        write_cells(axes, image, cells)
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axes.set_yticks(range(len(names)), names)
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            label.set_color(SEGMENT_COLORS[label.get_text()])
            label.set_fontweight("bold")
        axes.set_xlabel("receives: segment of the key")
        axes.set_ylabel("attends: segment of the query")
        entitle(
            axes,
            "Attention from segment to segment",
            model_words(table.attrs),
            f"mean over {len(layers)} layers" if layer is None else layer_words(layer),
            "mean over heads",
            count_words(table),
        )
    return axes


def _cells(table: pd.DataFrame, names: list[str]) -> np.ndarray:
    """Mean share, row the query's segment; NaN where the queries cannot see the keys."""
    means: Any = table.groupby(["query_segment", "key_segment"])["attention"].mean()
    return means.unstack().reindex(index=names, columns=names).to_numpy(float)
