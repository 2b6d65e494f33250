"""The largest activations of every layer beside its median, on a logarithmic axis."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sinkscope.analysis.massive import massive_layers
from sinkscope.errors import InputError
from sinkscope.plots.captions import entitle, model_words
from sinkscope.plots.style import ACCENT, MUTED, drawing
from sinkscope.record import Record

__all__ = ["layer_magnitudes"]

COLORS = (ACCENT, "#0072B2", "#009E73", "#CC79A7", "#56B4E9")
MARKERS = "osD^v"
ORDINALS = ("", *(f"{n} " for n in ("2nd", "3rd", "4th", "5th", "6th", "7th", "8th")))


def layer_magnitudes(
    layers: Record | pd.DataFrame, *, ratio: float | int | None = None, ax: Axes | None = None
) -> Axes:
    """The three largest |x| and the median |x| of the residual stream leaving each layer.

    The layer plot of Sun et al. (arXiv 2402.17762). Lines are means over samples; a band spans
    the samples. The dashed line is ratio × median: what lies above is massive.

    Args:
        layers: a Record, or what ``massive_layers`` returned.
        ratio: for the dashed line; the subject's own, else 1000, if left out.
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: if the table is another one.
    """
    table = massive_layers(layers) if isinstance(layers, Record) else layers
    if "top1" not in table:
        raise InputError(
            "layer_magnitudes: the table has no top1; give massive_layers' or a Record."
        )
    ranks = [str(name) for name in table if str(name).removeprefix("top").isdigit()]
    used = ratio or table.attrs.get("massive_ratio") or 1000.0
    groups: Any = table.groupby("layer")
    with drawing(ax, figsize=(6.4, 3.9)) as axes:
        for place, name in reversed(list(enumerate(ranks))):  # the largest on top
            low, mean, high = (groups[name].agg(how) for how in ("min", "mean", "max"))
            color, marker = COLORS[place % 5], MARKERS[place % 5]
            label = f"{ORDINALS[place]}largest |x|"
            axes.plot(
                mean.index,
                mean,
                marker=marker,
                ms=4 + 1.2 * place,
                lw=1.4,
                color=color,
                label=label,
            )
            if len(groups) < len(table):
                axes.fill_between(mean.index, low, high, color=color, alpha=0.15, lw=0)
        median = groups["median"].mean()
        axes.plot(median.index, median, color="black", lw=1.4, marker=".", label="median |x|")
        axes.plot(
            median.index, median * used, color=MUTED, lw=1, ls="--", label=f"{used:g} × median"
        )
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("layer (0-based; papers count from 1)")
        axes.set_ylabel("|x|, activation magnitude (model units)")
        axes.grid(axis="y", color="#E4E4E4", lw=0.6)
        handles, labels = axes.get_legend_handles_labels()
        order = [*reversed(range(len(ranks))), *range(len(ranks), len(labels))]
        axes.legend(
            [handles[i] for i in order],
            [labels[i] for i in order],
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
        )
        samples = len(set(table["sample"]))
        entitle(
            axes,
            "Largest activations of each layer",
            model_words(table.attrs),
            "resid_post, over all tokens and features",
            f"mean over {samples} samples, band: smallest to largest" if samples > 1 else "",
        )
    return axes
