"""The figures of the experiment's report. Depends on matplotlib and the results."""

from collections.abc import Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sinkscope.experiments.decorrelation.results import NUMBERS
from sinkscope.experiments.matryoshka.plan import SYSTEMS, TASKS
from sinkscope.plots.style import ACCENT, MUTED, STYLE

__all__ = ["error_dots", "help_dots", "number_dots", "rates_in_words", "usage_dots"]

COLORS = {"separate": MUTED, "ms": "#1F77B4", "ss": "#17A398", "mome": ACCENT}
SIDES = {"without": "o", "with": "D"}
GRID = "#EDEDED"


def rates_in_words(task: str, audio_rate: int, video_rate: int) -> str:
    """The encoder frames a token of the streams that a task reads.

    >>> rates_in_words("audiovisual", 16, 5), rates_in_words("video", 4, 5)
    ('16, 5', '5')
    """
    own = {"audio": (audio_rate,), "video": (video_rate,)}.get(task, (audio_rate, video_rate))
    return ", ".join(map(str, own))


def error_dots(wer: pd.DataFrame) -> Figure:
    """Word error rates, a panel a task: systems beside each other, without the loss and with it."""
    systems = [name for name in SYSTEMS if name in set(wer["system"])]
    places = {task: wer.loc[wer["task"] == task] for task in TASKS}
    widths = [
        rows[["audio_rate", "video_rate"]].drop_duplicates().shape[0] for rows in places.values()
    ]
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            1,
            len(TASKS),
            figsize=(9.2, 3.6),
            sharey=True,
            width_ratios=widths,
            layout="constrained",
        )
        for axes, (task, rows) in zip(panels, places.items(), strict=True):
            _error_panel(axes, rows, task, systems)
        panels[0].set_ylabel("word error rate")
        panels[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panels[0].set_ylim(bottom=0)
        handles, names = panels[-1].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=3, fontsize=8)
        figure.supxlabel("encoder frames a token (sound, picture)", fontsize=9)
    return figure


def _error_panel(axes: Axes, rows: pd.DataFrame, task: str, systems: Sequence[str]) -> None:
    order = _rates_of(rows)
    step = 0.8 / (2 * len(systems))
    for number, system in enumerate(systems):
        own = rows.loc[rows["system"] == system]
        for half, (side, marker) in enumerate(SIDES.items()):
            shift = (2 * number + half + 0.5) * step - 0.4
            face = COLORS[system] if side == "without" else "white"
            axes.errorbar(
                np.arange(len(own)) + shift,
                own[side],
                yerr=_ends(own, side),
                fmt=marker,
                ms=4.5,
                lw=1.2,
                color=COLORS[system],
                mfc=face,
                label=f"{SYSTEMS[system]}{', with the loss' if side == 'with' else ''}",
            )
    axes.set_xticks(range(len(order)), [rates_in_words(task, *one) for one in order])
    axes.set_xlim(-0.5, len(order) - 0.5)
    for place in range(1, len(order)):
        axes.axvline(place - 0.5, color=GRID, lw=0.8)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_title(TASKS[task])


def _rates_of(rows: pd.DataFrame) -> list[list[int]]:
    """The pairs of rates in a table, in its order."""
    return rows[["audio_rate", "video_rate"]].drop_duplicates().to_numpy().tolist()


def help_dots(wer: pd.DataFrame) -> Figure:
    """Error with the loss minus without, at every setting, a panel a system."""
    systems = [name for name in SYSTEMS if name in set(wer["system"])]
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            1, len(systems), figsize=(9.2, 3.2), sharey=True, sharex=True, layout="constrained"
        )
        for axes, system in zip(panels, systems, strict=True):
            own = wer.loc[wer["system"] == system].iloc[::-1]
            settings = own[["task", "audio_rate", "video_rate"]].to_numpy().tolist()
            names = [f"{TASKS[task]} {rates_in_words(task, *rates)}" for task, *rates in settings]
            axes.errorbar(
                own["difference"],
                np.arange(len(own)),
                xerr=_ends(own, "difference"),
                fmt="D",
                ms=4.5,
                lw=1.2,
                color=COLORS[system],
            )
            axes.axvline(0, color="black", lw=0.8)
            axes.set_yticks(range(len(own)), names)
            axes.set_title(SYSTEMS[system].replace(", ", ",\n"))
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
            axes.grid(axis="x", color=GRID, lw=0.8)
        figure.supxlabel("word error rate with the loss minus without, points", fontsize=9)
    return figure


def number_dots(numbers: pd.DataFrame) -> Figure:
    """Sinks, twins, ratios and cosines without and with the loss, the mean over settings."""
    shown = [name for name in NUMBERS if name in set(numbers["number"])]
    systems = [name for name in SYSTEMS if name in set(numbers["system"])]
    means: pd.DataFrame = numbers.pivot_table(["without", "with"], ["system", "number"])
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            2, (len(shown) + 1) // 2, figsize=(9.2, 4.8), sharey=True, layout="constrained"
        )
        for axes, number in zip(panels.flat, shown, strict=False):
            for place, system in enumerate(reversed(systems)):
                before, after = means.loc[(system, number), ["without", "with"]].tolist()
                axes.plot([before, after], [place, place], color=COLORS[system], lw=1.2)
                axes.plot(before, place, "o", ms=5, color=COLORS[system])
                axes.plot(after, place, "D", ms=5, color=COLORS[system], mfc="white")
            axes.set_yticks(range(len(systems)), [SHORT[name] for name in reversed(systems)])
            axes.set_ylim(-0.6, len(systems) - 0.4)
            top = max(float(means.xs(number, level="number").to_numpy().max()), 1e-3)
            axes.set_xlim(-0.05 * top, 1.12 * top)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_title(fill(NUMBERS[number], 26), fontsize=8.5)
            axes.grid(axis="x", color=GRID, lw=0.8)
        for axes in list(panels.flat)[len(shown) :]:
            axes.axis("off")
        figure.supxlabel("filled: without the loss; hollow: with it", fontsize=9)
    return figure


SHORT = {"separate": "Llama-AVSR", "ms": "MTSK, MS", "ss": "MTSK, SS", "mome": "MoME"}
"""Names of the systems where there is little room."""


def _ends(rows: pd.DataFrame, name: str) -> np.ndarray:
    """How far the interval reaches below and above."""
    return np.abs([rows[name] - rows[f"{name}_low"], rows[f"{name}_high"] - rows[name]])


def usage_dots(usage: pd.DataFrame) -> Figure:
    """Total variation of expert usage between rates and between layers, a panel a segment."""
    segments = [name for name in ("all", "audio", "video") if name in set(usage["segment"])]
    sides = list(dict.fromkeys(usage["side"]))
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            1, len(segments), figsize=(9.2, 2.8), sharey=True, squeeze=False, layout="constrained"
        )
        for axes, segment in zip(panels[0], segments, strict=True):
            for place, side in enumerate(reversed(sides)):
                own = usage.loc[(usage["side"] == side) & (usage["segment"] == segment)]
                lines = place + (np.arange(len(own)) - (len(own) - 1) / 2) * 0.2
                for name, (color, marker) in BETWEEN.items():
                    axes.errorbar(
                        own[name],
                        lines,
                        xerr=_ends(own, name),
                        fmt=marker,
                        ms=4.5,
                        lw=1.2,
                        color=color,
                        label=f"between {name}" if not place else None,
                    )
                for x, y in zip(own["rates_control_high"], lines, strict=True):
                    axes.plot([x, x], [y - 0.09, y + 0.09], color="black", lw=1.2)
            axes.set_yticks(range(len(sides)), [SIDE_NAMES[side] for side in reversed(sides)])
            axes.set_xlim(0, 1)
            axes.set_ylim(-0.5, len(sides) - 0.5)
            axes.set_title(f"{segment} tokens")
            axes.grid(axis="x", color=GRID, lw=0.8)
        handles, names = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=2, fontsize=8)
        figure.supxlabel(
            "mean total variation of expert usage; a dot a seed; black: 95 % of shuffled below",
            fontsize=9,
        )
    return figure


BETWEEN = {"rates": (ACCENT, "o"), "layers": (MUTED, "s")}
SIDE_NAMES = {"untrained": "untrained", "without": "trained", "with": "trained\nwith the loss"}
