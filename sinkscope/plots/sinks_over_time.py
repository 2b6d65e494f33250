"""Key attention along the clip's own time, with the waveform under it."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from sinkscope.analysis.attention import key_attention
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.plots.captions import (
    entitle,
    layer_words,
    model_words,
    refuse_sample,
    sample_words,
)
from sinkscope.plots.divide import divide
from sinkscope.plots.found import refuse_layer, sinks_or_find, strongest_layer, tokens_of
from sinkscope.plots.segments import turning_points, write_upright
from sinkscope.plots.spread import spread
from sinkscope.plots.style import ACCENT, MUTED, SEGMENT_COLORS, drawing, leader, plain
from sinkscope.record import ClipSummary, Record

__all__ = ["sinks_over_time"]

LABEL = 13.0
"""Points that an upright label takes."""

MOST_NAMES = 8
NAMES_AT = 1.15
"""Key attention at whose height the names stand: above the largest that there can be."""

LARGEST_STRIP = 0.4
"""Share of the width that the strip may take; with less room it names BOS, delimiters, sinks."""


def sinks_over_time(
    record: Record,
    *,
    layer: int | None = None,
    sample: int = 0,
    sinks: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """How much attention each audio and video token draws, at the seconds that it covers.

    Key attention (mean over heads and over the queries that see the token) on a logarithmic axis;
    a bar spans the token's seconds, sinks are named. Tokens without seconds (BOS, delimiters,
    instruction, response) stand in the strip at the right, in their order. The waveform's
    envelope lies under the time axis where the clip has sound.

    Args:
        record: one or several samples.
        layer: 0-based block; where the strongest intermediate sink is (else the strongest sink,
            else the most attended token) if left out.
        sample: which sample.
        sinks: what ``find_sinks`` returned; with its default thresholds if left out.
        ax: where to draw, its room is shared with strip and waveform; a new figure if left out.

    Returns:
        The axes of the traces.

    Raises:
        InputError: if no token has seconds, or there is no such sample or layer.
    """
    refuse_sample(record, sample, where="sinks_over_time")
    layout = record.layouts[sample]
    timed = np.isfinite(layout.seconds.sum(1))
    if not timed.any():
        raise InputError(
            "sinks_over_time: no token has seconds; use sink_rate or attention_map for text."
        )
    table = sinks_or_find(record, sinks)
    layer = strongest_layer(record, sample=sample, sinks=table) if layer is None else layer
    refuse_layer(layer, record.layers, where="sinks_over_time")
    alpha = key_attention(record).isel(sample=sample).sel(layer=layer).mean("head").values
    found = tokens_of(table, sample=sample, layer=layer)
    untimed = np.flatnonzero(~timed & layout.is_real)
    clip = record.clips[sample]
    with drawing(ax, figsize=(9.2, 4.6)) as axes:
        named = _named(axes, layout, untimed, found)
        strip, wave = _panels(axes, len(named), has_wave=bool(clip and clip.envelope))
        _draw_traces(axes, layout, alpha, timed)
        _name_sinks(axes, layout, alpha, [token for token in found if timed[token]])
        _scale(axes, alpha, table.attrs.get("threshold"))
        _draw_strip(strip, layout, alpha, untimed)
        _name_strip(strip, layout, untimed, named, found)
        _share_scale(axes, strip)
        last = wave or axes
        if wave is not None and clip is not None:
            _draw_wave(wave, clip)
            axes.tick_params(labelbottom=False)
            _leave_out_of_layout(strip)
            wave.set_xlim(axes.get_xlim())
        last.set_xlabel("time in the clip (s)")
        entitle(
            axes,
            "Attention that tokens draw, over time",
            model_words(record.provenance),
            layer_words(layer),
            "mean over heads and queries",
            sample_words(record, sample),
            above=15,
        )
    return axes


def _named(ax: Axes, layout: TokenLayout, untimed: np.ndarray, found: list[int]) -> list[int]:
    """Which tokens of the strip are named: all if there is room."""
    room = LARGEST_STRIP * ax.get_window_extent().width * 72 / ax.figure.dpi
    if len(untimed) * LABEL <= room:
        return untimed.tolist()
    return [token for token in untimed.tolist() if token in {*turning_points(layout), *found}]


def _panels(ax: Axes, named: int, *, has_wave: bool) -> tuple[Axes | None, Axes | None]:
    """Axes for the strip and for the waveform, taken from the room of ``ax``."""
    width = ax.get_window_extent().width * 72 / ax.figure.dpi
    share = min(LARGEST_STRIP, max(6, named) * LABEL / width)
    widths = [1 - share, share] if named else [1.0]
    heights = [1.0, 0.28] if has_wave else [1.0]
    cells = divide(ax, widths=widths, heights=heights)
    figure = ax.figure
    strip = figure.add_subplot(cells[0, 1]) if named else None
    wave = figure.add_subplot(cells[1, 0]) if has_wave else None
    return strip, wave


def _draw_traces(ax: Axes, layout: TokenLayout, alpha: np.ndarray, timed: np.ndarray) -> None:
    for segment in dict.fromkeys(np.array(layout.segments, object)[timed]):
        tokens = np.flatnonzero(timed & layout.mask(segment))
        color = SEGMENT_COLORS[segment]
        start, end = layout.seconds[tokens].T
        ax.hlines(alpha[tokens], start, end, color=color, lw=2.4, label=f"{segment} tokens")
        ax.plot((start + end) / 2, alpha[tokens], color=color, lw=0.7, alpha=0.55)
    ax.set_xlim(min(0.0, float(np.nanmin(layout.seconds))), float(np.nanmax(layout.seconds)))
    ax.set_ylabel("key attention α (fraction 0–1)")


def _name_sinks(ax: Axes, layout: TokenLayout, alpha: np.ndarray, tokens: list[int]) -> None:
    """Name the most attended of the tokens over the traces; the names keep apart."""
    chosen = sorted(tokens[:MOST_NAMES], key=lambda token: float(layout.seconds[token].mean()))
    words = [f"{plain(layout.labels[token], longest=10)} ({token})" for token in chosen]
    low, high = ax.get_xlim()
    points = 0.85 * ax.get_window_extent().width * 72 / ax.figure.dpi / (high - low)
    places = [float(layout.seconds[token].mean()) for token in chosen]
    sizes = [(5.2 * len(text) + 4) / points for text in words]
    for token, text, place, put in zip(
        chosen, words, places, spread(places, sizes, low=low, high=high), strict=True
    ):
        ax.annotate(
            text,
            (place, float(alpha[token])),
            (put, NAMES_AT),
            ha="center",
            va="bottom",
            color=ACCENT,
            fontsize=8,
            fontweight="bold",
            arrowprops=leader(ACCENT),
        )
        ax.plot(place, alpha[token], "o", color=ACCENT, ms=5, zorder=4)


def _scale(ax: Axes, alpha: np.ndarray, threshold: float | int | None) -> None:
    known = alpha[np.isfinite(alpha) & (alpha > 0)]
    ax.set_yscale("log")
    ax.set_ylim(max(float(known.min()) * 0.6, 1e-6), 2.2)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if threshold:
        ax.axhline(threshold, color=MUTED, lw=0.9, ls="--")
        ax.annotate(
            f"threshold {threshold:g}",
            (1, threshold),
            (-3, 3),
            xycoords=ax.get_yaxis_transform(),
            textcoords="offset points",
            ha="right",
            fontsize=7.5,
            color=MUTED,
        )
    ax.legend(loc="lower left", ncols=3, bbox_to_anchor=(0.0, 1.0), borderaxespad=0.1)


def _draw_strip(
    strip: Axes | None, layout: TokenLayout, alpha: np.ndarray, tokens: np.ndarray
) -> None:
    """Tokens without seconds side by side, each at its key attention."""
    if strip is None:
        return
    colors = [SEGMENT_COLORS[layout.segments[token]] for token in tokens]
    strip.scatter(np.arange(len(tokens)), alpha[tokens], c=colors, s=20, zorder=3)
    strip.set_xlim(-0.8, len(tokens) - 0.2)
    strip.set_title("without seconds", fontsize=8, fontweight="normal", color=MUTED, loc="center")


def _name_strip(
    strip: Axes | None, layout: TokenLayout, tokens: np.ndarray, named: list[int], found: list[int]
) -> None:
    if strip is None:
        return
    places = {token: float(place) for place, token in enumerate(tokens.tolist())}
    words = {
        places[token]: f"{plain(layout.labels[token], longest=12)} ({token})" for token in named
    }
    write_upright(strip, words, bold={places[token] for token in found if token in places})


def _leave_out_of_layout(strip: Axes | None) -> None:
    """The strip's labels hang into the empty corner beside the waveform."""
    for text in strip.texts if strip is not None else ():
        text.set_in_layout(False)


def _share_scale(ax: Axes, strip: Axes | None) -> None:
    """The strip on the scale of the traces."""
    if strip is None:
        return
    strip.set_yscale("log")
    strip.set_ylim(ax.get_ylim())
    strip.tick_params(axis="y", which="both", length=0, labelleft=False)
    strip.spines["left"].set_visible(False)
    for line in ax.get_lines():
        if line.get_linestyle() == "--":
            strip.axhline(line.get_ydata()[0], color=MUTED, lw=0.9, ls="--")  # pyright: ignore[reportIndexIssue,reportArgumentType]


def _draw_wave(ax: Axes, clip: ClipSummary) -> None:
    envelope = np.array(clip.envelope, float)
    time = (np.arange(len(envelope)) + 0.5) / clip.envelope_rate
    ax.fill_between(time, envelope[:, 0], envelope[:, 1], color="#7A8B99", lw=0)
    height = float(np.abs(envelope).max(initial=0)) or 1.0
    ax.set_ylim(-height, height)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_ylabel("sound", rotation=0, ha="right", va="center")
