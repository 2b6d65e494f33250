"""How far expert usage lies apart between rates, and between layers, beside shuffled labels."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sinkscope.errors import InputError
from sinkscope.plots.captions import entitle, model_words
from sinkscope.plots.style import ACCENT, MUTED, drawing

__all__ = ["usage_distances"]

ROWS = (
    ("rates", "tv", "between rates,\nin one layer", ACCENT),
    ("rates", "control", "rates, labels shuffled", MUTED),
    ("layers", "tv", "between layers,\nat one rate", "#0072B2"),
    ("layers", "control", "layers, labels shuffled", MUTED),
)
"""Kind and column of every row of dots, its name and colour."""


def usage_distances(
    distances: pd.DataFrame, *, segment: str = "all", ax: Axes | None = None
) -> Axes:
    """Every comparison as a dot: total variation, and what exchanged labels give on average.

    Comparisons of two pairs that give the segment one rate (``same_rate``) are left out.

    Args:
        distances: what ``usage_distances`` returned.
        segment: ``"all"`` or a segment of the table.
        ax: where to draw; a new figure if left out.

    Returns:
        The axes.

    Raises:
        InputError: the table is another one, or does not have the segment.
    """
    if distances.attrs.get("table") != "usage_distances":
        raise InputError("usage_distances: give what sinkscope.usage_distances returned.")
    own = distances.loc[distances["segment"] == segment]
    if own.empty:
        known = ", ".join(dict.fromkeys(distances["segment"]))
        raise InputError(f"usage_distances: no segment {segment!r} in the table; use {known}.")
    own = own.loc[~own["same_rate"].fillna(False).astype(bool)]
    if own.empty:
        raise InputError(f"usage_distances: the {segment} rate is the same at all pairs.")
    clips = int(own["clips"].max())
    rng = np.random.default_rng(0)
    shown = [row for row in ROWS if (own["kind"] == row[0]).any()]
    with drawing(ax, figsize=(7.2, 3.3)) as axes:
        for place, (kind, column, _, color) in enumerate(shown):
            values = own.loc[own["kind"] == kind, column].to_numpy()
            height = place + rng.uniform(-0.2, 0.2, len(values))
            axes.plot(values, height, "o", color=color, alpha=0.45, ms=4.5, mew=0)
            mean = float(values.mean())
            axes.plot([mean, mean], [place - 0.34, place + 0.34], color="black", lw=1.6)
            axes.annotate(
                f"mean {mean:.2f}",
                (mean, place - 0.34),
                (0, 1),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=7.5,
            )
        counts = own["kind"].value_counts()
        names = [
            f"{name} ({counts[kind]})" if column == "tv" else name
            for kind, column, name, _ in shown
        ]
        axes.set_yticks(range(len(shown)), names)
        axes.set_ylim(len(shown) - 0.5, -0.7)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("total variation of expert usage (0 same experts, 1 none in common)")
        entitle(
            axes,
            "Experts across rates and across layers",
            model_words(distances.attrs),
            "all tokens" if segment == "all" else f"{segment} tokens",
            f"mean over {clips} clips" * (clips > 1),
            "each dot is one comparison of two",
        )
    return axes
