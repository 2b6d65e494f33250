"""Key attention along the clip before and after, one above the other on one time axis."""

from dataclasses import replace

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.text import Text

from sinkscope.plots.divide import divide
from sinkscope.plots.found import sinks_or_find, strongest_layer
from sinkscope.plots.pair import refuse_unlike
from sinkscope.plots.sinks_over_time import sinks_over_time
from sinkscope.plots.style import drawing
from sinkscope.record import Record

__all__ = ["sink_changes"]


def sink_changes(
    before: Record,
    after: Record,
    *,
    layer: int | None = None,
    sample: int = 0,
    sinks: tuple[pd.DataFrame, pd.DataFrame] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """How much attention each token draws at its seconds, before and after.

    Two rows of ``sinks_over_time`` on the same axes of time and of attention; the waveform lies
    under the second.

    Args:
        before: one or several samples.
        after: of the same tokens.
        layer: 0-based block; where the strongest sink is before if left out.
        sample: which sample.
        sinks: what ``find_sinks`` returned for both; with its default thresholds if left out.
        ax: where to draw, its room is shared; a new figure if left out.

    Returns:
        The axes of the traces before.

    Raises:
        InputError: if the tokens differ, none has seconds, or there is no such sample or layer.
    """
    refuse_unlike(before, after, sample, where="sink_changes")
    tables = sinks or (sinks_or_find(before, None), sinks_or_find(after, None))
    if layer is None:
        layer = strongest_layer(before, sample=sample, sinks=tables[0])
    with drawing(ax, figsize=(9.2, 8.2)) as first:
        others = [axes for axes in first.figure.axes if axes is not first]
        cells = divide(first, widths=[1], heights=[1.0, 1.22])
        second = first.figure.add_subplot(cells[1, 0])
        quiet = replace(before, clips=tuple(c and replace(c, envelope=[]) for c in before.clips))
        rows = zip(("Before", "After"), (first, second), (quiet, after), tables, strict=True)
        for name, axes, record, table in rows:
            sinks_over_time(record, layer=layer, sample=sample, sinks=table, ax=axes)
            _retitle(axes, name)
        _share([axes for axes in first.figure.axes if axes not in others])
    return first


def _retitle(ax: Axes, name: str) -> None:
    """Put "Before" or "After" in front of the title, which keeps its place."""
    title = ax.get_title(loc="left")
    for text in ax.findobj(Text):
        if isinstance(text, Text) and text.get_text() == title:
            text.set_text(f"{name}: {title[0].lower()}{title[1:]}")


def _share(panels: list[Axes]) -> None:
    """One scale of attention for both rows and their strips."""
    traces = [axes for axes in panels if axes.get_yscale() == "log"]
    low = min(axes.get_ylim()[0] for axes in traces)
    for axes in traces:
        axes.set_ylim(bottom=low)
