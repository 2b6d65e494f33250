"""Which neurons write one massive activation, and how their gates stand at other tokens."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from sinkscope.analysis.origin import Origin
from sinkscope.errors import InputError
from sinkscope.plots.birth import chosen_birth
from sinkscope.plots.captions import entitle, layer_words, model_words
from sinkscope.plots.style import ACCENT, MUTED, drawing, plain

__all__ = ["neurons"]

SHOWN = 6


def neurons(
    origin: Origin,
    *,
    sample: int | None = None,
    token: int | None = None,
    feature: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The share of what the MLP adds that the first neurons write, with their gates.

    Args:
        origin: what ``trace_origin`` returned.
        sample: of the births, which; the one with the largest value if nothing is said.
        token: position of the token.
        feature: the feature.
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: if no such value was traced, or the neurons of its layer could not be read.
    """
    row = chosen_birth(origin, sample=sample, token=token, feature=feature, where="neurons")
    keys = ("sample", "token", "feature", "layer")
    table = origin.neurons
    own = table.loc[np.logical_and.reduce([table[key] == row[key] for key in keys])].head(SHOWN)
    if not len(own):
        why = origin.unreadable.get(int(row["layer"]), "no neuron was kept there")
        raise InputError(f"neurons: those of layer {row['layer']} could not be read: {why}.")
    with drawing(ax, figsize=(6.4, 1.5 + 0.32 * len(own))) as axes:
        places = np.arange(len(own))
        shares = own["share"].to_numpy(float)
        colors = [ACCENT, *["#B8B8B8"] * (len(own) - 1)]
        axes.barh(places, shares, 0.68, color=colors)
        axes.axvline(0, color=MUTED, lw=0.6)
        axes.set_yticks(places, [f"neuron {number}" for number in own["neuron"]])
        axes.invert_yaxis()
        low, high = min(0.0, float(shares.min())), max(1.0, float(shares.max()))
        axes.set_xlim(low * 1.05, high * 1.62)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        name = "act" if np.isnan(own["gate"].to_numpy(float)).all() else "gate"
        for place, value, here, there in zip(
            places, shares, own[name], own[f"{name}_others"], strict=True
        ):
            words = f"{name} {here:.3g}, elsewhere {there:.3g}"
            at = (max(float(value), 0.0), float(place))
            axes.annotate(words, at, (5, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_xlabel("share of what the MLP adds to the feature")
        axes.set_ylabel("largest first")
        entitle(
            axes,
            f"Who writes feature {row['feature']} of {plain(row['label'])}",
            model_words(origin.births.attrs),
            layer_words(int(row["layer"])),
            f"token {row['token']} of sample {row['sample']}; elsewhere: median over ordinary "
            "tokens of the sample",
        )
    return axes
