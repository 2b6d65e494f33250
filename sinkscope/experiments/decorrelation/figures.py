"""The figures of the experiment's report. Depends on matplotlib and the results."""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from sinkscope.experiments.decorrelation.plan import LEVELS, TASKS, Arm
from sinkscope.experiments.decorrelation.results import NUMBERS
from sinkscope.plots.style import ACCENT, MUTED, SEGMENT_COLORS, STYLE

__all__ = [
    "control_bars",
    "error_lines",
    "learning_curves",
    "number_dots",
    "place_bars",
    "rates_in_words",
]

SIDES = {"without": (MUTED, "o", "without the loss"), "with": (ACCENT, "D", "with it")}
SHIFT = 0.12
SCHEMES = {"full": "Full fine-tuning", "lora": "LoRA"}


def error_lines(wer: pd.DataFrame) -> Figure:
    """Word error rates by compression, a panel a task and scheme; small marks are seeds."""
    schemes = list(dict.fromkeys(wer["scheme"]))
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            len(schemes),
            len(TASKS),
            figsize=(8.6, 2.7 * len(schemes) + 0.5),
            sharey="row",
            squeeze=False,
            layout="constrained",
        )
        for row, scheme in zip(panels, schemes, strict=True):
            for axes, task in zip(row, TASKS, strict=True):
                own = wer.loc[(wer["scheme"] == scheme) & (wer["task"] == task)]
                _lines(axes, own)
                axes.set_title(f"{task}, {SCHEMES[scheme]}")
                axes.set_xticks(
                    range(len(own)),
                    [f"{level}\n{rates_in_words(level, task)}" for level in own["level"]],
                )
            row[0].set_ylabel("word error rate")
        panels[0][0].legend(loc="upper left")
        figure.supxlabel("encoder frames a token", fontsize=9)
    return figure


def rates_in_words(level: str, task: str) -> str:
    """The encoder frames a token of a task at a level of compression."""
    audio, video = LEVELS[level]
    return {"ASR": f"{audio}", "VSR": f"{video}", "AVSR": f"{audio}, {video}"}[task]


def _lines(axes: Axes, own: pd.DataFrame) -> None:
    for shift, (side, (color, marker, name)) in zip((-SHIFT, SHIFT), SIDES.items(), strict=True):
        places = np.arange(len(own)) + shift
        ends = [own[side] - own[f"{side}_low"], own[f"{side}_high"] - own[side]]
        axes.errorbar(
            places,
            own[side],
            yerr=np.abs(ends),
            color=color,
            marker=marker,
            ms=5,
            lw=1.4,
            label=name,
        )
        for end in ("lowest", "highest"):
            axes.plot(places, own[f"{side}_{end}_seed"], "_", color=color, ms=7)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#EDEDED", lw=0.8)


def number_dots(numbers: pd.DataFrame) -> Figure:
    """Sinks, twins, ratios and cosines of every cell, without and with the loss."""
    shown = [name for name in NUMBERS if name in set(numbers["number"])]
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            2, -(-len(shown) // 2), figsize=(11, 6), squeeze=False, layout="constrained"
        )
        for axes, name in zip(panels.flat, shown, strict=False):
            _dots(axes, numbers.loc[numbers["number"] == name])
            axes.set_title(NUMBERS[name], fontsize=9)
        for axes in panels.flat[len(shown) :]:
            axes.axis("off")
        handles, names = panels[0][0].get_legend_handles_labels()
        panels.flat[-1].legend(handles, names, loc="center")
    return figure


def _dots(axes: Axes, own: pd.DataFrame) -> None:
    for scheme, fill in (("full", True), ("lora", False)):
        rows = own.loc[own["scheme"] == scheme]
        places = np.arange(len(rows))
        for shift, (side, (color, marker, name)) in zip(
            (-SHIFT, SHIFT), SIDES.items(), strict=True
        ):
            at = places + shift + (0 if fill else 2 * SHIFT)
            face = color if fill else "white"
            label = f"{SCHEMES[scheme]}, {name}"
            axes.plot(
                at, rows[side], marker, color=color, markerfacecolor=face, ms=4.5, label=label
            )
            axes.vlines(at, rows[f"{side}_low"], rows[f"{side}_high"], color=color, lw=1)
    rows = own.loc[own["scheme"] == "full"]
    ticks = [f"{task}\n{level}" for task, level in zip(rows["task"], rows["level"], strict=True)]
    axes.set_xticks(range(len(rows)), ticks, fontsize=5.5)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#EDEDED", lw=0.8)


def learning_curves(out: Path, base: Sequence[Arm], tuned: Sequence[Arm]) -> Figure:
    """Errors on the development voices in the shared stage, a line a seed."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 3, figsize=(8.6, 2.8), sharey=True, layout="constrained")
        for axes, level in zip(panels, LEVELS, strict=True):
            for arms, (color, marker, name) in zip((base, tuned), SIDES.values(), strict=True):
                for arm in arms:
                    curve = json.loads((out / arm.name / "curve.json").read_text())
                    steps = [entry["step"] for entry in curve]
                    rates = [np.mean([e[f"{t} {level}"] for t in TASKS.values()]) for e in curve]
                    label = name if arm is arms[0] else None
                    axes.plot(steps, rates, color=color, marker=marker, ms=3, lw=1.2, label=label)
            axes.set_title(f"{level} compression")
            axes.set_xlabel("step of the shared stage")
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axes.set_ylim(bottom=0)
            axes.grid(axis="y", color="#EDEDED", lw=0.8)
        panels[0].set_ylabel("word error rate, mean over tasks")
        panels[0].legend()
    return figure


def control_bars(controls: pd.DataFrame) -> Figure:
    """The controls after the shared stage: errors, sinks, twins, cosine; dots are seeds."""
    shown = [name for name in ("wer", *NUMBERS) if name in set(controls["number"])]
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            2,
            -(-len(shown) // 2),
            figsize=(11, 5.6),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for axes, name in zip(panels.flat, shown, strict=False):
            own = controls.loc[controls["number"] == name]
            arms = list(dict.fromkeys(own["arm"]))
            for place, arm in enumerate(arms):
                rows = own.loc[own["arm"] == arm]
                color = ACCENT if arm == "the loss" else MUTED
                axes.plot(rows["value"], [place] * len(rows), "o", color=color, ms=4)
                axes.plot(rows["value"].mean(), place, "|", color=color, ms=16, mew=2)
            axes.set_yticks(range(len(arms)), arms)
            axes.set_ylim(len(arms) - 0.5, -0.5)
            axes.set_xlim(left=0)
            axes.set_title({"wer": "word error rate"}.get(name) or NUMBERS[name], fontsize=9)
            axes.grid(axis="x", color="#EDEDED", lw=0.8)
        for axes in panels.flat[len(shown) :]:
            axes.axis("off")
    return figure


def place_bars(places: pd.DataFrame) -> Figure:
    """On which tokens the intermediate sinks stand, by task, without and with the loss.

    Args:
        places: ``task side label segment per_clip``.
    """
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            1, len(TASKS), figsize=(9, 3.4), sharex=True, layout="constrained"
        )
        for axes, task in zip(panels, TASKS, strict=True):
            own = places.loc[places["task"] == task]
            order = own.groupby("label")["per_clip"].sum().sort_values(ascending=False).index[:7]
            for shift, (side, (color, _, name)) in zip((-0.2, 0.2), SIDES.items(), strict=True):
                rows = own.loc[own["side"] == side].set_index("label")["per_clip"]
                widths = rows.reindex(order).fillna(0)
                axes.barh(np.arange(len(order)) + shift, widths, 0.36, color=color, label=name)
            axes.set_yticks(range(len(order)), list(order))
            for tick, label in zip(axes.get_yticklabels(), order, strict=True):
                segment = own.loc[own["label"] == label, "segment"].iloc[0]
                tick.set_color(SEGMENT_COLORS.get(segment, "black"))
            axes.invert_yaxis()
            axes.set_title(task)
            axes.set_xlabel("sinks a clip")
            axes.grid(axis="x", color="#EDEDED", lw=0.8)
        figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure
