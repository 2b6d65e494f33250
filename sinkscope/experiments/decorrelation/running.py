"""Run the arms, and then their cells, in processes of one thread each. Depends on torch.

Every job leaves its folder whole or not at all, so a run that was stopped goes on where it was.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from sinkscope.avsr.model import LlamaAvsr
from sinkscope.experiments.decorrelation.arms import (
    begin,
    read_arm,
    train_arm,
    train_cell,
)
from sinkscope.experiments.decorrelation.causes import look_closer
from sinkscope.experiments.decorrelation.measuring import measure, subject_of
from sinkscope.experiments.decorrelation.plan import (
    CLOSER,
    LEVELS,
    LONG_ENOUGH,
    TASKS,
    WEIGHTS,
    Arm,
    Cell,
    Sizes,
    cells_of,
)
from sinkscope.experiments.jobs import run_jobs
from sinkscope.experiments.tiny_features import FeatureStore
from sinkscope.experiments.tiny_stores import long_ones, stores_of, unseen_clips, unseen_store

__all__ = ["closer", "run_arms", "run_cells", "step_zero", "sweep"]


def sweep(out: Path, sizes: Sizes, *, workers: int = 2) -> pd.DataFrame:
    """Train an arm of the first seed with every weight; their errors on the development voices.

    Returns:
        One row a weight: ``weight``, a column a task and level, and ``mean``; the best of those
        above 0 is the weight of the experiment.
    """
    arms = [Arm(0, weight=weight) for weight in WEIGHTS]
    run_jobs(arms, partial(_train_only, out, sizes=sizes), workers)
    rows = []
    for arm in arms:
        last = json.loads((out / arm.name / "curve.json").read_text())[-1]
        errors = {f"{m} {level}": last[f"{m} {level}"] for m in TASKS.values() for level in LEVELS}
        mean = sum(errors.values()) / len(errors)
        rows.append({"weight": arm.weight, **errors, "mean": mean, "step": last["step"]})
    table = pd.DataFrame(rows)
    table.to_csv(out / "sweep.csv", index=False)
    return table


def run_arms(out: Path, arms: Sequence[Arm], sizes: Sizes, *, workers: int = 2) -> None:
    """Train and measure the shared stages of arms."""
    run_jobs(arms, partial(_do_arm, out, sizes=sizes), workers)


def run_cells(out: Path, arms: Sequence[Arm], sizes: Sizes, *, workers: int = 2) -> None:
    """Train and measure every cell of some arms, whose shared stages are there."""
    run_jobs(list(cells_of(arms)), partial(_do_cell, out, sizes=sizes), workers)


def closer(out: Path, arms: Sequence[Arm], sizes: Sizes, *, workers: int = 2) -> None:
    """Explain the sinks of arms in the settings of `CLOSER`, and test the story."""
    run_jobs(arms, partial(_look_closer, out, sizes=sizes), workers)


def step_zero(out: Path, arms: Sequence[Arm], sizes: Sizes) -> None:
    """Measure the models of some arms before any step of training."""
    for arm in arms:
        _measure_arm(out, f"step-zero-{arm.name}", begin(out, arm).eval(), sizes)


def _train_only(out: Path, arm: Arm, *, sizes: Sizes) -> None:
    train_arm(out, arm, stores_of(out), steps=sizes.shared)


def _do_arm(out: Path, arm: Arm, *, sizes: Sizes) -> None:
    model = train_arm(out, arm, stores_of(out), steps=sizes.shared)
    _measure_arm(out, arm.name, model, sizes)


def _measure_arm(out: Path, name: str, model: LlamaAvsr, sizes: Sizes) -> None:
    for task in TASKS.values():
        for level, rates in LEVELS.items():
            measure(
                model,
                out / name / f"{task}-{level}",
                store=_long_unseen(out),
                clips=unseen_clips(out, sizes.looked_at, LONG_ENOUGH),
                task=task,
                rates=rates,
            )


def _look_closer(out: Path, arm: Arm, *, sizes: Sizes) -> None:
    model, clips = read_arm(out, arm), unseen_clips(out, sizes.looked_at, LONG_ENOUGH)
    for task, level in CLOSER:
        folder = out / arm.name / f"closer-{task}-{level}"
        look_closer(subject_of(model, task, LEVELS[level]), folder, clips)


def _do_cell(out: Path, cell: Cell, *, sizes: Sizes) -> None:
    model = train_cell(out, cell, stores_of(out), steps=sizes.own)
    measure(
        model,
        out / cell.name,
        store=_long_unseen(out),
        clips=unseen_clips(out, sizes.looked_at_in_cells, LONG_ENOUGH),
        task=cell.task,
        rates=cell.rates,
    )


def _long_unseen(out: Path) -> FeatureStore:
    """The long utterances of the test voices."""
    return long_ones(unseen_store(out), LONG_ENOUGH)
