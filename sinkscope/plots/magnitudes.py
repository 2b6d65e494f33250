"""Activation magnitudes of one layer over tokens and features, flat."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from sinkscope.plots.captions import entitle, layer_words, model_words, sample_words
from sinkscope.plots.found import massive_here, massive_words
from sinkscope.plots.grid import show_grid
from sinkscope.plots.segments import draw_bands, label_tokens, tokens_to_label
from sinkscope.plots.style import ACCENT, drawing
from sinkscope.plots.tallest import tallest
from sinkscope.record import Record

__all__ = ["magnitudes"]

DARKEST = "#000004"
"""The lower end of the colour map."""


def magnitudes(
    record: Record,
    *,
    layer: int,
    sample: int = 0,
    features: int = 8,
    massive: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """|x| of the residual stream leaving a layer: a column a token, a row a feature.

    Shown are the features that reach the largest |x| anywhere in the layer. A record knows the 8
    largest features of every token (all where ``resid_post`` was kept): a cell that is not among
    them is drawn like the darkest, because it is smaller than the token's eighth. Tokens and
    features with massive activations are named in bold and colour.

    Args:
        record: one or several samples.
        layer: 0-based block.
        sample: which sample.
        features: how many rows.
        massive: what ``find_massive_activations`` returned; with the subject's ratio if left out.
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: if there is no such sample or layer.
    """
    known = tallest(record, layer=layer, sample=sample, where="magnitudes")
    layout, rows = record.layouts[sample], known.features(features)
    cells = known.grid(rows, len(layout))
    table = massive_here(record, massive, sample=sample, layer=layer)
    low = known.median if known.median > 0 else float(np.nanmin(cells[cells > 0], initial=1e-9))
    with drawing(ax, figsize=(8.0, 2.6 + 0.24 * len(rows))) as axes:
        show_grid(
            axes,
            cells,
            norm=LogNorm(low, max(float(np.nanmax(cells)), low * 10)),
            label="|x| (log scale from\nthe layer's median)",
            unknown=DARKEST,
        )
        axes.set_yticks(range(len(rows)), [str(feature) for feature in rows])
        for feature, text in zip(rows, axes.get_yticklabels(), strict=True):
            if feature in set(table["feature"]):
                text.set(color=ACCENT, fontweight="bold")
        axes.set_ylabel("feature (index)")
        order = table.sort_values("magnitude", ascending=False)["token"]
        found = list(dict.fromkeys(map(int, order)))
        draw_bands(axes, layout)
        label_tokens(axes, layout, tokens_to_label(layout, found), bold=found, title="token")
        entitle(
            axes,
            "Activation magnitudes",
            model_words(record.provenance),
            layer_words(layer),
            "resid_post",
            sample_words(record, sample),
            f"median |x| {known.median:.3g}",
            massive_words(table),
            f"darkest: not recorded ({known.words})" if known.words else "",
            above=26,
        )
    return axes
