"""Where the numbers for the claims are read. Depends on pandas and the results."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sinkscope.experiments.decorrelation.plan import (
    CLOSER,
    LEVELS,
    TASKS,
    Arm,
    cells_of,
)
from sinkscope.experiments.decorrelation.results import Sample, difference, sample_of

__all__ = ["Evidence", "labels_of", "share_of"]

Interval = tuple[float, float, float]
"""A point, and the ends of its interval."""

UNKNOWN: Interval = (np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class Evidence:
    """Where the numbers are.

    Attributes:
        out: folder of all results.
        base: the arms without the loss, one a seed.
        tuned: the arms with it.
        normed: the arms whose projectors end in a LayerNorm.
    """

    out: Path
    base: Sequence[Arm]
    tuned: Sequence[Arm]
    normed: Sequence[Arm] = ()

    def closer(self, table: str) -> pd.DataFrame:
        """A table of `look_closer` without the loss, of all settings and seeds; or empty."""
        found = []
        for arm, (task, level) in product(self.base, CLOSER):
            path = self.out / arm.name / f"closer-{task}-{level}" / f"{table}.csv"
            if path.exists():
                own = pd.read_csv(path)
                found.append(own.assign(seed=arm.seed, setting=f"{task} {level}"))
        return pd.concat(found, ignore_index=True) if found else pd.DataFrame()

    def sinks(self, task: str) -> pd.DataFrame:
        """The sinks of the arms without the loss in a task, of all levels and seeds."""
        folders = [self.out / cell.name for cell in cells_of(self.base) if cell.task == task]
        found = [pd.read_csv(f / "sinks.csv").assign(folder=f.name) for f in folders]
        return pd.concat(found, ignore_index=True)

    def clips(self, task: str) -> int:
        """Clips that were looked at in a task, over levels and seeds."""
        cells = [cell for cell in cells_of(self.base) if cell.task == task]
        return sum(len(pd.read_csv(self.out / cell.name / "numbers.csv")) for cell in cells)

    def massive_layers(self) -> tuple[int, int]:
        """The first and the last block after which BOS is massive in most clips."""
        tables = [pd.read_csv(self.out / c.name / "numbers.csv") for c in cells_of(self.base)]
        both = pd.concat(tables)[["first_massive", "last_massive"]].to_numpy(float)
        first, last = np.nanmedian(both, axis=0).tolist()
        return int(first), int(last)

    def number(self, task: str, level: str, number: str, *, stage: str = "own") -> Interval:
        """The mean of a number in the arms without the loss, with its interval."""
        found = sample_of(self.out, self.base, task, level, stage=stage, number=number)
        return difference(found) if found is not None else UNKNOWN

    def mean(self, number: str, stage: str) -> float:
        """The mean of a number over tasks and levels, without the loss."""
        points = [
            self.number(m, level, number, stage=stage)[0]
            for m in TASKS.values()
            for level in LEVELS
        ]
        return float(np.mean(points))

    def counts(self, condition: str, claim: str) -> tuple[int, int]:
        """In how many clips a causal test holds, and of how many."""
        tests = self.closer("tests")
        if not len(tests):
            return 0, 0
        own = tests.loc[(tests["condition"] == condition) & (tests["claim"] == claim)]
        return int(own["yes"].sum()), int(own["clips"].sum())

    def change(self, number: str, levels: Sequence[str]) -> Interval:
        """The mean change over tasks and levels, utterances and seeds drawn together."""
        sides = []
        for arms in (self.tuned, self.base):
            found = [
                sample_of(self.out, arms, task, level, stage="own", number=number)
                for task in TASKS.values()
                for level in levels
            ]
            cells = [one for one in found if one is not None]
            if len(cells) < len(found):
                return UNKNOWN
            above = np.mean([one.above for one in cells], axis=0)
            sides.append(Sample(above, cells[0].below))
        return difference(*sides)


def share_of(values: Any) -> float:
    """The share of true values; NaN of none."""
    found = np.asarray(values, float)
    return float(found.mean()) if len(found) else np.nan


def labels_of(found: pd.DataFrame) -> str:
    """The commonest labels with their shares."""
    shares = found["label"].value_counts(normalize=True).head(2)
    return ", ".join(f"`{label}` {share:.0%}" for label, share in shares.items())
