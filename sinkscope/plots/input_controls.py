"""Input controls: what each one leaves of the sinks and of the largest activation, clip by clip."""

from collections import Counter

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sinkscope.errors import InputError
from sinkscope.plots.captions import entitle, model_words
from sinkscope.plots.divide import divide
from sinkscope.plots.style import ACCENT, MUTED, drawing, plain

__all__ = ["input_controls"]

ORIGINAL = "original"
SPREAD = 0.56
"""How much of a row's height its clips share."""


def input_controls(controls: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Sink rate and largest ratio to the median under each control, beside the unchanged input.

    A hollow dot is an unchanged input, a full one the same input under the control. At the right
    stand the intermediate sinks, and in how many inputs each was found.

    Args:
        controls: what ``input_controls`` returned.
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: if the table is another one, or holds no control.
    """
    if "control" not in controls or ORIGINAL not in set(controls["control"]):
        raise InputError("input_controls: the table has no unchanged input; give input_controls'.")
    names = list(dict.fromkeys(controls["control"]))
    names.remove(ORIGINAL)
    if not names:
        raise InputError("input_controls: the table has no control beside the unchanged input.")
    said = controls.attrs
    with drawing(ax, figsize=(8.6, 1.5 + 0.42 * (len(names) + 1))) as axes:
        cells = divide(axes, widths=(1, 1, 0.75), heights=(1,))
        ratios = axes.figure.add_subplot(cells[0, 1], sharey=axes)
        labels = axes.figure.add_subplot(cells[0, 2], sharey=axes)
        for panel, column in ((axes, "sink_rate"), (ratios, "largest_ratio")):
            _dots(panel, controls, names, column)
        _rate_axis(axes, controls, names)
        _ratio_axis(ratios, said.get("ratio_threshold"))
        _labels(labels, controls, [ORIGINAL, *names])
        count = len(set(controls["sample"].tolist()))
        entitle(
            axes,
            "Sinks under input controls",
            model_words(said),
            f"{count} input{'' if count == 1 else 's'}",
            "hollow: unchanged, full: under the control",
        )
    return axes


def _dots(ax: Axes, table: pd.DataFrame, names: list[str], column: str) -> None:
    """Before and after of every clip, on lines of their own within the control's row."""
    before = _numbers(table, ORIGINAL, column)
    shifts = np.linspace(-SPREAD / 2, SPREAD / 2, len(before) + 2)[1:-1]
    hollow = {"marker": "o", "ms": 4, "mfc": "white", "mec": MUTED, "zorder": 2}
    for place, name in enumerate([ORIGINAL, *names]):
        after = _numbers(table, name, column)
        for (sample, old), shift in zip(before.items(), shifts, strict=True):
            new, height = after.get(sample, np.nan), place + shift
            if np.isnan(new):
                continue
            ax.plot(old, height, **hollow)
            if name != ORIGINAL:
                ax.plot([old, new], [height] * 2, color="#C8C8C8", lw=1, zorder=1)
                ax.plot(new, height, "o", ms=4, color=ACCENT, zorder=3)
    ax.axhline(0.5, color="#E4E4E4", lw=0.8)


def _numbers(table: pd.DataFrame, name: str, column: str) -> dict[int, float]:
    """The column of one control, by sample."""
    rows = table.loc[table["control"] == name]
    return dict(zip(rows["sample"].tolist(), rows[column].tolist(), strict=True))


def _rate_axis(ax: Axes, table: pd.DataFrame, names: list[str]) -> None:
    words = {name: name.replace("_", " ") for name in names} | table.attrs.get("words", {})
    ticks = ["unchanged", *(plain(words[name], longest=40) for name in names)]
    ax.set_yticks(range(len(ticks)), ticks)
    ax.set_ylim(len(names) + 0.5, -0.5)
    ax.set_xlim(-0.03 * max(0.1, ax.get_xlim()[1]), 1.04 * max(0.1, ax.get_xlim()[1]))
    ax.set_xlabel("sink rate of BOS or the first token\n(share of all layers' heads, 0–1)")
    ax.set_ylabel("input")
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="#E4E4E4", lw=0.6)


def _ratio_axis(ax: Axes, ratio: float | None) -> None:
    ax.set_xscale("log")
    if ratio:
        ax.axvline(ratio, color=MUTED, lw=1, ls="--")
        ax.annotate(
            f"massive from {ratio:g}",
            (ratio, 1),
            (0, 4),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            fontsize=8,
            color=MUTED,
            ha="center",
        )
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("largest |x|\n(multiples of the layer's median)")
    ax.tick_params(axis="y", labelleft=False, length=0)
    ax.grid(axis="x", color="#E4E4E4", lw=0.6)


def _labels(ax: Axes, table: pd.DataFrame, names: list[str]) -> None:
    """The intermediate sinks of each row, or that the control was not possible."""
    ax.set_axis_off()
    ax.annotate(
        "intermediate sinks",
        (0, 1),
        (0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8,
        color=MUTED,
    )
    for place, name in enumerate(names):
        rows = table.loc[table["control"] == name]
        done = rows.loc[rows["reason"] == ""]
        ax.annotate(
            _sinks(done) if len(done) else "not possible here",
            (0, place),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            va="center",
            color="black" if len(done) else MUTED,
        )


def _sinks(done: pd.DataFrame) -> str:
    found = Counter(label for labels in done["intermediate"] for label in set(labels))
    if not found:
        return "none"
    most = found.most_common(2)
    shown = [f"{plain(label, longest=10)} ({count} of {len(done)})" for label, count in most]
    return ", ".join(shown) + (" …" if len(found) > 2 else "")
