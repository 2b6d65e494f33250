"""Tables of the report that are not of one cell: controls, places, exchanged delimiters.

Depends on pandas.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from sinkscope.experiments.decorrelation.plan import (
    CLOSER,
    CONTROLS,
    LEVELS,
    TASKS,
    Arm,
    Cell,
)
from sinkscope.experiments.decorrelation.results import sample_of

__all__ = ["control_table", "meaning_table", "place_table", "swap_table"]

SHOWN = ("wer", "n_intermediate", "n_twins", "largest_ratio", "cos2", "sink_rate_elsewhere")


def control_table(out: Path, seeds: Sequence[int], weight: float | int) -> pd.DataFrame:
    """After the shared stage, a mean over tasks and levels: ``arm seed number value``."""
    arms = {"no loss": Arm(0), "the loss": Arm(0, weight=weight)}
    for control in CONTROLS:
        own = weight if control == "random direction" else 0.0
        arms[control] = Arm(0, weight=own, control=control)
    rows = []
    for name, arm in {"untrained": Arm(0), **arms}.items():
        stage = "step zero" if name == "untrained" else "shared"
        for seed, number in ((s, n) for s in seeds for n in SHOWN):
            cells = [
                sample_of(out, [replace(arm, seed=seed)], task, level, stage=stage, number=number)
                for task in TASKS.values()
                for level in LEVELS
            ]
            values = [one.rates(np.ones((1, len(one.below))))[0, 0] for one in cells if one]
            if values:
                row = {"arm": name, "seed": seed, "number": number}
                rows.append(row | {"value": float(np.mean(values))})
    return pd.DataFrame(rows)


def place_table(out: Path, base: Sequence[Arm], tuned: Sequence[Arm]) -> pd.DataFrame:
    """On which tokens intermediate sinks stand: ``task side label segment per_clip``."""
    rows = []
    for (task, modality), (side, arms) in (
        (t, s) for t in TASKS.items() for s in (("without", base), ("with", tuned))
    ):
        folders = [out / Cell(arm, modality, level).name for arm in arms for level in LEVELS]
        sinks = pd.concat([pd.read_csv(one / "sinks.csv").assign(cell=one.name) for one in folders])
        clips = sum(len(pd.read_csv(one / "numbers.csv")) for one in folders)
        own = sinks.loc[sinks["kind"] == "intermediate"]
        own = own.drop_duplicates(["cell", "sample", "token"])
        content = own["segment"].isin(["audio", "video"])
        label = own["label"].where(~content, "any " + own["segment"])
        for (name, segment), count in own.groupby([label, "segment"]).size().items():
            row = {"task": task, "side": side, "label": name, "segment": segment}
            rows.append(row | {"per_clip": count / clips})
    return pd.DataFrame(rows, columns=["task", "side", "label", "segment", "per_clip"])


def swap_table(out: Path, base: Sequence[Arm]) -> pd.DataFrame:
    """Attention of the delimiters as trained and with two exchanged: a column a delimiter."""
    found = [
        pd.read_csv(path).assign(seed=arm.seed)
        for arm in base
        if (path := out / arm.name / "closer-audiovisual-low" / "delimiters.csv").exists()
    ]
    if not found:
        return pd.DataFrame()
    peaks = pd.concat(found).pivot_table("alpha", ["seed", "swapped"], "label", aggfunc="max")
    return peaks.reset_index()


def meaning_table(out: Path, base: Sequence[Arm]) -> pd.DataFrame:
    """Are audio and video tokens that are sinks of low meaning? Without the loss."""
    found = []
    for arm, (task, level) in product(base, CLOSER):
        path = out / arm.name / f"closer-{task}-{level}" / "low_meaning.csv"
        if path.exists():
            own = pd.read_csv(path)
            found.append(own.assign(seed=arm.seed, setting=f"{task} {level}"))
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    return table.loc[table["n_sinks"] > 0] if len(table) else table
