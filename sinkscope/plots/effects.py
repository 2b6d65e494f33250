"""What interventions did to one number: a dot a condition, its interval, and the value before."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from sinkscope.analysis.effects import BEFORE, METRICS
from sinkscope.errors import InputError
from sinkscope.plots.captions import entitle, model_words
from sinkscope.plots.style import ACCENT, MUTED, drawing, plain

__all__ = ["effects"]

LONGEST = 40
NAMES = {"wer": "word error rate", "kl": "KL divergence"}
SHARES = ("wer", "sink_rate", "largest_sink_rate")


def effects(
    summary: pd.DataFrame,
    *,
    metric: str = "loss",
    controls: tuple[str, ...] = (),
    ax: Axes | None = None,
) -> Axes:
    """One metric after every intervention, with its 95 % interval; the line is before.

    Args:
        summary: what ``effects`` returned, or ``measure(...).summary``.
        metric: one of its metrics.
        controls: conditions that are drawn as controls.
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: if the table does not hold the metric.
    """
    if not {"condition", "metric", "after"} <= set(summary):
        raise InputError("effects: the table is another one; give measure(...).summary.")
    own = summary.loc[(summary["metric"] == metric) & (summary["condition"] != BEFORE)]
    if not len(own):
        held = ", ".join(dict.fromkeys(summary["metric"]))
        raise InputError(f"effects: the table holds no {metric!r}; it holds {held}.")
    before, after = own["before"].to_numpy(float), own["after"].to_numpy(float)
    places = np.arange(len(own))
    with drawing(ax, figsize=(6.4, 1.7 + 0.3 * len(own))) as axes:
        axes.axvline(float(before.mean()), color="black", lw=1, ls="--", zorder=1)
        for place, row in zip(places, own.to_dict("records"), strict=True):
            control = row["condition"] in controls
            color = MUTED if control else ACCENT
            ends = [row["before"] + row["low"], row["before"] + row["high"]]
            if np.isfinite(ends).all():
                axes.plot(ends, [place, place], color=color, lw=2.2, solid_capstyle="round")
            axes.plot(
                after[place], place, marker="D" if control else "o", ms=6, color=color, zorder=3
            )
        axes.set_yticks(places, [plain(name, longest=LONGEST) for name in own["condition"]])
        axes.set_ylim(len(own) - 0.4, -0.6)
        axes.set_ylabel("condition")
        axes.grid(axis="y", color="#EDEDED", lw=0.8)
        if metric in SHARES:
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel(METRICS.get(metric, metric))
        clips = int(own["clips"].max())
        entitle(
            axes,
            f"{NAMES.get(metric, metric.replace('_', ' ')).capitalize()} under interventions",
            model_words(summary.attrs),
            f"{clips} {'sample' if clips == 1 else 'samples'}; bars: 95 % interval of the change",
            "dashed: before" + "; grey: controls" * bool(controls),
        )
    return axes
