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
from sinkscope.record import Record
from sinkscope.reports.thresholds import Thresholds

__all__ = ["RunFigure", "run_figures"]

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
    here = {"sample": sample}
    todo: list[tuple[str, str, str, Callable[[], Axes]]] = []
    if _has_map(record, layer):
        todo.append(
            (
                "attention_map",
                "Who attends to whom",
                "Each row is a token that attends, each column one that is attended to. A bright "
                "column that runs down the map is a sink.",
                partial(plots.attention_map, record, layer=layer, sinks=sinks, **here),
            )
        )
    if np.isfinite(record.layouts[sample].seconds).any():
        todo.append(
            (
                "sinks_over_time",
                "Attention along the clip",
                "How much attention each audio and video token draws, at the seconds that it "
                "covers; tokens without seconds at the right. The axis is logarithmic.",
                partial(plots.sinks_over_time, record, layer=layer, sinks=sinks, **here),
            )
        )
    todo += [
        (
            "sink_rate",
            "Attention to BOS in every layer and head",
            "Key attention of BOS (or of the reference token where there is no BOS). Framed heads "
            "pass the threshold; their share is the sink rate.",
            partial(plots.sink_rate, record, threshold=thresholds.threshold),
        ),
        (
            "segment_flow",
            "Attention between segments",
            "Of all the attention that a row's tokens give, the share that goes to each segment.",
            partial(plots.segment_flow, tables["segment_attention"]),
        ),
        (
            "layer_magnitudes",
            "Largest activations over layers",
            "What lies above the dashed line is massive. The jump shows the layer in which massive "
            "activations are born, the fall where they are removed.",
            partial(
                plots.layer_magnitudes,
                tables["massive_layers"],
                ratio=massive.attrs["ratio_threshold"],
            ),
        ),
        (
            "magnitudes",
            "Which features of which tokens",
            "The features with the largest activations in the layer that has the largest one. "
            "Tokens that share bright features share massive activations.",
            partial(plots.magnitudes, record, layer=peak, massive=massive, **here),
        ),
        (
            "magnitudes_3d",
            "The same as bars",
            "The tallest activations of that layer in space.",
            partial(plots.magnitudes_3d, record, layer=peak, massive=massive, **here),
        ),
        (
            "bos_cosine",
            "Cosine to BOS over layers",
            "Once tokens share massive features, their cosine is near 1 by construction: look at "
            "the layer before the jump for evidence of its own.",
            partial(plots.bos_cosine, record, sinks=sinks),
        ),
    ]
    return [RunFigure(name, title, caption, _png(draw)) for name, title, caption, draw in todo]


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


def _has_map(record: Record, layer: int) -> bool:
    return any(
        name in record and layer in record[name]["layer"] for name in ("pattern", "pattern_bins")
    )


def _png(draw: Callable[[], Axes]) -> bytes:
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
