"""Which experts work in which layer: a heat map for every segment, or for every rate."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

from sinkscope.analysis.rates import Pair, rate_words
from sinkscope.errors import InputError
from sinkscope.plots.captions import entitle, model_words
from sinkscope.plots.divide import divide
from sinkscope.plots.grid import show_grid
from sinkscope.plots.style import drawing

__all__ = ["expert_usage"]

SHOWN = ("all", "audio", "video")
"""Segments of one table that are shown where nothing is asked for."""

MOST_IN_ONE_LINE = 5
"""Panels above which the name of each takes two lines."""

TICKS = (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1)


def expert_usage(
    usage: pd.DataFrame | Mapping[Pair, pd.DataFrame],
    *,
    segments: Sequence[str] = SHOWN,
    ax: Axes | None = None,
) -> Axes:
    """Share of a layer's choices that each routed expert gets, one colour scale for all panels.

    Args:
        usage: what ``expert_usage`` returned: a panel a segment; or several of them by (audio rate,
            video rate): a panel a rate, with the tokens of the first of ``segments``.
        segments: ``"all"`` or segments; those that are absent are left out.
        ax: where to draw, its room is shared by the panels; a new figure if left out.

    Returns:
        The axes of the first panel.

    Raises:
        InputError: the table is another one, or has none of the segments.
    """
    segments = [segments] if isinstance(segments, str) else list(segments)
    if not segments or not len(usage):
        raise InputError("expert_usage: there is no table or no segment; give at least one.")
    panels = _panels(usage, segments)
    first = next(iter(usage.values())) if isinstance(usage, Mapping) else usage
    grids = {name: _grid(table) for name, table in panels.items()}
    largest = max(float(grid.max()) for grid in grids.values())
    experts = first.attrs["experts"]
    with drawing(ax, figsize=(min(12.0, 3.4 + 2.6 * len(grids)), 3.9)) as axes:
        cells = divide(axes, widths=[1.0] * (len(grids) - 1) + [1.18], heights=[1])
        for place, (name, grid) in enumerate(grids.items()):
            panel = axes if place == 0 else axes.figure.add_subplot(cells[0, place])
            image = show_grid(
                panel,
                grid,
                norm=PowerNorm(0.5, vmin=0, vmax=largest),
                label="share of the layer's choices",
                ticks=TICKS,
                bar=place == len(grids) - 1,
            )
            image.set_clim(0, largest)
            apart = "\n" if len(grids) > MOST_IN_ONE_LINE else " "
            _name(panel, panels[name], f"{name}:{apart}", first=place == 0)
        entitle(
            axes,
            "Which experts work",
            model_words(first.attrs),
            f"{experts} routed experts, {first.attrs['top_k']} a token; even would be "
            f"{1 / experts:.1%}",
            f"{segments[0]} tokens" if isinstance(usage, Mapping) else "",
            above=26 if len(grids) > MOST_IN_ONE_LINE else 16,
            panels=len(grids),
        )
    return axes


def _panels(
    usage: pd.DataFrame | Mapping[Pair, pd.DataFrame], segments: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """The rows of every panel, by its name."""
    tables = list(usage.values()) if isinstance(usage, Mapping) else [usage]
    for table in tables:
        if table.attrs.get("table") != "expert_usage":
            raise InputError("expert_usage: give what sinkscope.expert_usage returned.")
    if isinstance(usage, Mapping):
        named = {f"rates {rate_words(pair)}": _of(t, segments[0]) for pair, t in usage.items()}
    else:
        named = {name: _of(usage, name) for name in segments}
    shown = {name: own for name, own in named.items() if len(own)}
    if not shown:
        raise InputError(f"expert_usage: the table has none of the segments {list(segments)}.")
    return shown


def _of(table: pd.DataFrame, segment: str) -> pd.DataFrame:
    return table.loc[table["segment"] == segment]


def _grid(own: pd.DataFrame) -> np.ndarray:
    return own.pivot_table(index="layer", columns="expert", values="usage").to_numpy()


def _name(ax: Axes, own: pd.DataFrame, name: str, *, first: bool) -> None:
    layers = sorted(set(own["layer"].tolist()))
    step = max(1, -(-len(layers) // 12))
    ax.set_yticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel("expert")
    ax.annotate(
        f"{name}{own['tokens'].iloc[0]} tokens",
        (0, 1),
        (0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8,
        fontweight="bold",
    )
    if first:
        ax.set_ylabel("layer (0-based)")
    else:
        ax.tick_params(axis="y", labelleft=False)
