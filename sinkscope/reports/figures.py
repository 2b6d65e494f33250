"""The figures of a run: what is drawn, under which name, with which caption."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sinkscope import plots
from sinkscope.plots.found import strongest_layer
from sinkscope.plots.maps import has_map
from sinkscope.record import Record
from sinkscope.reports.thresholds import Thresholds

__all__ = ["RunFigure", "png_of", "run_figures"]

DOTS_PER_INCH = 144
PAGE = 106
"""Pixels of the page for an inch of a figure."""


@dataclass(frozen=True)
class RunFigure:
    """One figure of a run.

    Attributes:
        name: of its file, without the ending.
        title: what it shows.
        caption: how to read it.
        png: the picture.
    """

    name: str
    title: str
    caption: str
    png: bytes

    @property
    def width(self) -> int:
        """Pixels of a page that make the figures' texts one size, from the picture's header."""
        return round(int.from_bytes(self.png[16:20], "big") * PAGE / DOTS_PER_INCH)


CAPTIONS: dict[str, tuple[str, str]] = {
    "attention_map": (
        "Who attends to whom",
        "Each row is a token that attends, each column one that is attended to. A bright column "
        "that runs down the map is a sink.",
    ),
    "sinks_over_time": (
        "Attention along the clip",
        "How much attention each audio and video token draws, at the seconds that it covers; "
        "tokens without seconds at the right. The axis is logarithmic.",
    ),
    "sink_rate": (
        "Attention to BOS in every layer and head",
        "Key attention of BOS (or of the reference token where there is no BOS). Framed heads "
        "pass the threshold; their share is the sink rate.",
    ),
    "segment_flow": (
        "Attention between segments",
        "Of all the attention that a row's tokens give, the share that goes to each segment.",
    ),
    "layer_magnitudes": (
        "Largest activations over layers",
        "What lies above the dashed line is massive. A jump shows the layer in which massive "
        "activations are born, a fall where they are removed.",
    ),
    "magnitudes": (
        "Which features of which tokens",
        "The features with the largest activations, in the layer where the largest stands out "
        "most. Massive activations are named in bold: look whether tokens share their features.",
    ),
    "magnitudes_3d": ("The same as bars", "The tallest activations of that layer in space."),
    "bos_cosine": (
        "Cosine to BOS over layers",
        "Once tokens share massive features, their cosine is near 1 by construction: look at the "
        "layer before the jump for evidence of its own.",
    ),
}
"""Title and caption of each figure, in the order of the report."""


def run_figures(
    record: Record, tables: Mapping[str, pd.DataFrame], thresholds: Thresholds
) -> list[RunFigure]:
    """Draw what a record allows: no map where none was kept, no time where no token has seconds.

    Figures of one sample show the one with the strongest intermediate sink, else the strongest
    sink, else the first.
    """
    sinks, massive = tables["sinks"], tables["massive_activations"]
    sample = _sample(sinks)
    layer = strongest_layer(record, sample=sample, sinks=sinks)
    peak = _massive_layer(tables["massive_layers"], sample)
    attention = {"layer": layer, "sample": sample, "sinks": sinks}
    states = {"layer": peak, "sample": sample, "massive": massive}
    ratio = massive.attrs["ratio_threshold"]
    draw: dict[str, Callable[[], Axes]] = {
        "attention_map": partial(plots.attention_map, record, **attention),
        "sinks_over_time": partial(plots.sinks_over_time, record, **attention),
        "sink_rate": partial(plots.sink_rate, record, threshold=thresholds.threshold),
        "segment_flow": partial(plots.segment_flow, tables["segment_attention"]),
        "layer_magnitudes": partial(plots.layer_magnitudes, tables["massive_layers"], ratio=ratio),
        "magnitudes": partial(plots.magnitudes, record, **states),
        "magnitudes_3d": partial(plots.magnitudes_3d, record, **states),
        "bos_cosine": partial(plots.bos_cosine, record, sinks=sinks),
    }
    if not has_map(record, layer):
        del draw["attention_map"]
    if not np.isfinite(record.layouts[sample].seconds).any():
        del draw["sinks_over_time"]
    return [
        RunFigure(name, *CAPTIONS[name], png_of(draw[name])) for name in CAPTIONS if name in draw
    ]


def _sample(sinks: pd.DataFrame) -> int:
    for kind in ("intermediate", "bos"):
        own = sinks.loc[sinks["kind"] == kind]
        if len(own):
            return int(own["sample"].to_numpy()[own["alpha"].argmax()])
    return 0


def _massive_layer(layers: pd.DataFrame, sample: int) -> int:
    """The layer whose largest |x| is the largest multiple of its median."""
    own = layers.loc[layers["sample"] == sample]
    return int(own["layer"].to_numpy()[own["ratio"].argmax()])


def png_of(draw: Callable[[], Axes]) -> bytes:
    """The picture of a new figure, which is closed again."""
    figure = draw().get_figure(root=True)
    if figure is None:
        raise RuntimeError("a plot returned axes without a figure")
    content = BytesIO()
    try:
        figure.savefig(content, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
    finally:
        plt.close(figure)
    return content.getvalue()
