"""A grid of cells with a labelled colour bar: what the heat maps share. Depends on matplotlib."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedLocator, FuncFormatter

from sinkscope.plots.style import SCORES, UNSEEN

__all__ = ["show_grid", "write_cells"]


def show_grid(
    ax: Axes,
    values: Float[np.ndarray, "row column"],
    *,
    label: str,
    norm: Normalize | None = None,
    extent: Any = None,
    ticks: Sequence[float | int] = (),
    gap: float = 0.02,
    unknown: str = UNSEEN,
    colors: str = SCORES,
    bar: bool = True,
) -> AxesImage:
    """Draw the cells in colours, NaN in the colour ``unknown``, and a colour bar with its label.

    Args:
        ax: the axes.
        values: one number a cell.
        label: what the colours are, with the unit.
        norm: how numbers become colours; straight between the extremes if left out.
        extent: left, right, bottom, top in the axes' units; one unit a cell if left out.
        gap: room between the cells and the colour bar, as a share of the width.
        unknown: colour of the cells without a number.
        ticks: where the colour bar is labelled; those outside its range are left out.
        colors: name of the colour map.
        bar: whether there is a colour bar; not where a neighbour's serves both.
    """
    cells = np.ma.masked_invalid(values)
    palette = mpl.colormaps[colors].with_extremes(bad=unknown)
    image = ax.imshow(
        cells, cmap=palette, norm=norm, extent=extent, aspect="auto", interpolation="nearest"
    )
    if bar:
        _add_bar(ax, image, label, ticks, gap)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return image


def _add_bar(
    ax: Axes, image: AxesImage, label: str, ticks: Sequence[float | int], gap: float
) -> None:
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8, aspect=30, pad=gap)
    bar.set_label(label)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    low, high = image.get_clim()
    shown = [tick for tick in ticks if low <= tick <= high]
    if len(shown) > 1:
        bar.ax.yaxis.set_major_locator(FixedLocator(shown))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        bar.ax.yaxis.set_minor_locator(FixedLocator([]))


def write_cells(
    ax: Axes,
    image: ScalarMappable,
    values: Float[np.ndarray, "row column"],
) -> None:
    """Write each number into its cell, in black or white, whichever is read more easily."""
    for (row, column), value in np.ndenumerate(values):
        if not np.isfinite(value):
            continue
        red, green, blue, _ = image.to_rgba(np.asarray(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        ax.text(
            column,
            row,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=7.5,
            color="white" if dark else "black",
        )
