"""The figures of a comparison: what is drawn, under which name, with which caption."""

from collections.abc import Callable
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from sinkscope import plots
from sinkscope.analysis.comparison import Comparison
from sinkscope.plots.maps import has_map
from sinkscope.plots.pair import shown, sinks_of
from sinkscope.record import Record
from sinkscope.reports.figures import RunFigure, drawn

__all__ = ["comparison_figures"]

CAPTIONS: dict[str, tuple[str, str]] = {
    "before_after": (
        "Before and after on one picture",
        "Numbers are means over clips; their intervals are those of the change. The maps have one "
        "colour scale: a bright column that pales is a sink that loses attention.",
    ),
    "attention_changes": (
        "Who attends to whom, and what moved",
        "Both maps on one colour scale. In the difference red is more attention after, blue less, "
        "white no change.",
    ),
    "sink_changes": (
        "Attention along the clip",
        "The same tokens before and after, on the same axes. Names in colour are sinks.",
    ),
    "feature_changes": (
        "Massive features",
        "A pair of bars for each feature that is massive before or after. A feature that is lost "
        "is still there, only below the threshold, which moves with the median: look how much.",
    ),
    "cosine_changes": (
        "Cosine to BOS over layers",
        "Tokens that point where BOS points. Once tokens share massive features their cosine is "
        "near 1 by construction, so curves that fall may only say that the features shrank.",
    ),
}
"""Title and caption of each figure, in the order of the report."""


def comparison_figures(before: Record, after: Record, found: Comparison) -> list[RunFigure]:
    """Draw what the records allow: no map where none was kept, no time where no token has seconds.

    Figures of one sample and layer show those in which the attention to a sink moves most.
    """
    sample, layer = shown(found) or (0, before.layers[-1])
    where = {"layer": layer, "sample": sample}
    pair = {**where, "sinks": sinks_of(found)}
    draw: dict[str, Callable[[], Axes]] = {
        "feature_changes": partial(plots.feature_changes, found),
        "cosine_changes": partial(plots.cosine_changes, found),
    }
    if all(has_map(record, layer) for record in (before, after)):
        draw["before_after"] = partial(plots.before_after, before, after, found, **where)
        draw["attention_changes"] = partial(plots.attention_changes, before, after, **pair)
    if np.isfinite(before.layouts[sample].seconds).any():
        draw["sink_changes"] = partial(plots.sink_changes, before, after, **pair)
    return [drawn(name, *CAPTIONS[name], draw[name]) for name in CAPTIONS if name in draw]
