"""The sinks of one clip at every rate, on one time axis."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sinkscope.analysis.rates import Pair, check_rates, rate_words
from sinkscope.analysis.sink_tables import sinks_at, sinks_of_rates
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.plots.captions import entitle, model_words, refuse_sample, sample_words
from sinkscope.plots.divide import divide
from sinkscope.plots.style import ACCENT, MUTED, SEGMENT_COLORS, drawing, plain
from sinkscope.record import Record

__all__ = ["sinks_by_rate"]

HEIGHT = 0.3
"""Of a token's bar; a pair of rates has one unit for each of its streams."""

MOST_COLUMNS = 10

Name = tuple[str, int]
"""A token without seconds: its label, and how many tokens before it have the same one."""


def sinks_by_rate(
    records: Mapping[Pair, Record],
    sinks: pd.DataFrame,
    *,
    sample: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Every audio and video token at the seconds that it covers, sinks filled and named.

    A group of rows is a pair of rates, a row one stream. Sinks without seconds (BOS, delimiters,
    the prompt) stand in the strip at the right: filled where the token is a sink at that pair. The
    second token of one label is called "label (2)".

    Args:
        records: of the same clips by (audio rate, video rate).
        sinks: what ``sinks_by_rate`` returned for them.
        sample: which clip.
        ax: where to draw, its room is shared with the strip; a new figure if left out.

    Returns:
        The axes of the time axis.

    Raises:
        InputError: no token has seconds, there is no such sample, or the table is another one.
    """
    check_rates(records, where="sinks_by_rate")
    sinks = sinks_of_rates(sinks, records, where="sinks_by_rate")
    first = next(iter(records.values()))
    refuse_sample(first, sample, where="sinks_by_rate")
    layouts = [record.layouts[sample] for record in records.values()]
    streams = list(dict.fromkeys(name for one in layouts for name in _timed_segments(one)))
    if not streams:
        raise InputError("sinks_by_rate: no token has seconds, so there is no time axis.")
    own = sinks.loc[sinks["sample"] == sample]
    found = {pair: sinks_at(own, pair) for pair in records}
    named = {pair: _names(one.layouts[sample]) for pair, one in records.items()}
    untimed = {
        pair: {named[pair][token]: place for place, token in enumerate(named[pair]) if token in own}
        for pair, own in ((pair, set(table["token"])) for pair, table in found.items())
    }
    columns = _columns(list(untimed.values()))
    rows = len(records) * (len(streams) + 0.6)
    with drawing(ax, figsize=(9.2, 1.7 + 0.34 * rows)) as axes:
        strip = _strip(axes, len(columns))
        for number, (pair, record) in enumerate(records.items()):
            top = number * (len(streams) + 0.6)
            _draw_pair(axes, record.layouts[sample], streams, found[pair], top)
            _draw_strip(strip, columns, untimed[pair], top + (len(streams) - 1) / 2)
        _finish(axes, strip, list(records), streams, columns)
        entitle(
            axes,
            "Sinks at every rate, over time",
            model_words(first.provenance),
            sample_words(first, sample),
            "sinks of any layer",
            "pairs are (audio rate, video rate), encoder frames a token",
            above=17,
        )
    return axes


def _timed_segments(layout: TokenLayout) -> list[str]:
    timed = np.isfinite(layout.seconds).all(1)
    return [layout.segments[token] for token in np.flatnonzero(timed)]


def _names(layout: TokenLayout) -> dict[int, Name]:
    """The names of the tokens without seconds, which are the same at every rate."""
    seen: Counter[str] = Counter()
    names: dict[int, Name] = {}
    for token in np.flatnonzero(np.isnan(layout.seconds).any(1)).tolist():
        label = layout.labels[token]
        names[token] = (label, seen[label])
        seen[label] += 1
    return names


def _columns(untimed: list[dict[Name, int]]) -> list[Name]:
    """Sinks without seconds, in the order of the tokens; those of the most pairs of rates."""
    counts = Counter(name for own in untimed for name in own)
    places = {name: place for own in untimed for name, place in own.items()}
    return sorted((name for name, _ in counts.most_common(MOST_COLUMNS)), key=lambda n: places[n])


def _words(name: Name) -> str:
    label, before = name
    return plain(label, longest=12) + (f" ({before + 1})" if before else "")


def _strip(ax: Axes, columns: int) -> Axes | None:
    if not columns:
        return None
    share = min(0.35, 0.05 + 0.035 * columns)
    cells = divide(ax, widths=[1 - share, share], heights=[1])
    return ax.figure.add_subplot(cells[0, 1])


def _draw_pair(
    ax: Axes, layout: TokenLayout, streams: list[str], own: pd.DataFrame, top: float
) -> None:
    for row, stream in enumerate(streams):
        tokens = np.flatnonzero(layout.mask(stream))
        if not len(tokens):
            continue
        start, end = layout.seconds[tokens].T
        is_sink = np.isin(tokens, own["token"])
        color = SEGMENT_COLORS[stream]
        ax.barh(
            np.full(len(tokens), top + row),
            end - start,
            left=start,
            height=2 * HEIGHT,
            color=[ACCENT if sink else color for sink in is_sink],
            edgecolor="white",
            linewidth=0.6,
            zorder=2,
        )
        for bar, sink in zip(ax.patches[-len(tokens) :], is_sink, strict=True):
            bar.set_alpha(1.0 if sink else 0.28)
        for token in tokens[is_sink]:
            ax.annotate(
                plain(layout.labels[token], longest=8),
                (float(layout.seconds[token].mean()), top + row - HEIGHT),
                (0, 1),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=7.5,
                fontweight="bold",
                color=ACCENT,
                zorder=4,
            )


def _draw_strip(
    strip: Axes | None, columns: list[Name], own: dict[Name, int], height: float
) -> None:
    if strip is None:
        return
    for place, name in enumerate(columns):
        sink = name in own
        face, edge = (ACCENT, ACCENT) if sink else ("white", MUTED)
        strip.plot(place, height, "o", ms=8, mfc=face, mec=edge, mew=1.2)


def _finish(
    ax: Axes, strip: Axes | None, pairs: list[Pair], streams: list[str], columns: list[Name]
) -> None:
    step = len(streams) + 0.6
    middles = [number * step + (len(streams) - 1) / 2 for number in range(len(pairs))]
    low, high = len(pairs) * step - 0.9, -0.75
    ax.set_ylim(low, high)
    ax.set_yticks(middles, [rate_words(pair) for pair in pairs])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlim(left=0)
    ax.set_xlabel("time in the clip (s)")
    handles = [
        Line2D([], [], color=SEGMENT_COLORS[stream], alpha=0.4, lw=6, label=f"{stream} tokens")
        for stream in streams
    ]
    handles.append(Line2D([], [], color=ACCENT, lw=6, label="sink"))
    ax.legend(handles=handles, loc="lower left", ncols=3, bbox_to_anchor=(0, 1), borderaxespad=0.1)
    if strip is not None:
        strip.set_ylim(low, high)
        strip.set_xlim(-0.7, len(columns) - 0.3)
        strip.set_xticks(range(len(columns)), [_words(name) for name in columns], rotation=90)
        strip.tick_params(axis="y", length=0, labelleft=False)
        strip.tick_params(axis="x", length=0)
        for side in ("left", "bottom"):
            strip.spines[side].set_visible(False)
        strip.set_title(
            "without seconds", fontsize=8, fontweight="normal", color=MUTED, loc="center"
        )
