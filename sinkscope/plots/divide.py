"""Give a part of one axes' room to others, so that a figure of several panels fits anywhere.

Depends on matplotlib.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.gridspec import SubplotSpec

__all__ = ["divide"]


def divide(
    ax: Axes, *, widths: Sequence[float | int], heights: Sequence[float | int]
) -> dict[tuple[int, int], SubplotSpec]:
    """Split the room of ``ax``; it keeps the first cell.

    Args:
        ax: the axes, which shrink to row 0, column 0.
        widths: relative widths of the columns.
        heights: relative heights of the rows.

    Returns:
        Every cell by row and column.
    """
    spec = ax.get_subplotspec() or _spec_of_position(ax)
    grid = spec.subgridspec(len(heights), len(widths), width_ratios=widths, height_ratios=heights)
    cells = {(r, c): grid[r, c] for r in range(len(heights)) for c in range(len(widths))}
    ax.set_subplotspec(cells[0, 0])
    return cells


def _spec_of_position(ax: Axes) -> SubplotSpec:
    """A grid of one cell where axes stand that were placed by hand."""
    box = ax.get_position()
    grid = ax.figure.add_gridspec(1, 1, left=box.x0, right=box.x1, bottom=box.y0, top=box.y1)
    return grid[0, 0]
