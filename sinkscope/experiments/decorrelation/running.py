"""Run the arms, and then their cells, in processes of one thread each. Depends on torch.

Every job leaves its folder whole or not at all, so a run that was stopped goes on where it was.
"""

import json
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import pandas as pd

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.experiments import tiny_avsr
from sinkscope.experiments.corpus import read_corpus
from sinkscope.experiments.decorrelation.arms import (
    Stores,
    begin,
    long_ones,
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
    train_arm(out, arm, _stores(out), steps=sizes.shared)


def _do_arm(out: Path, arm: Arm, *, sizes: Sizes) -> None:
    model = train_arm(out, arm, _stores(out), steps=sizes.shared)
    _measure_arm(out, arm.name, model, sizes)


def _measure_arm(out: Path, name: str, model: LlamaAvsr, sizes: Sizes) -> None:
    for task in TASKS.values():
        for level, rates in LEVELS.items():
            measure(
                model,
                out / name / f"{task}-{level}",
                store=_test(out),
                clips=_clips(out, sizes.looked_at),
                task=task,
                rates=rates,
            )


def _look_closer(out: Path, arm: Arm, *, sizes: Sizes) -> None:
    model, clips = read_arm(out, arm), _clips(out, sizes.looked_at)
    for task, level in CLOSER:
        folder = out / arm.name / f"closer-{task}-{level}"
        look_closer(subject_of(model, task, LEVELS[level]), folder, clips)


def _do_cell(out: Path, cell: Cell, *, sizes: Sizes) -> None:
    model = train_cell(out, cell, _stores(out), steps=sizes.own)
    measure(
        model,
        out / cell.name,
        store=_test(out),
        clips=_clips(out, sizes.looked_at_in_cells),
        task=cell.task,
        rates=cell.rates,
    )


@cache
def _stores(out: Path) -> Stores:
    model = tiny_avsr.join(out)
    train = tiny_avsr.cached_features(model, out, "train", tiny_avsr.HEARD)
    return Stores(train, tiny_avsr.cached_features(model, out, "dev", None))


@cache
def _test(out: Path) -> FeatureStore:
    """The long utterances of the test voices."""
    return long_ones(tiny_avsr.cached_features(tiny_avsr.join(out), out, "test", None))


@cache
def _clips(out: Path, count: int) -> list[Clip]:
    """The first of them, as clips."""
    found: list[Clip] = []
    for clip in read_corpus(out / "corpus", "test"):
        if clip.duration >= LONG_ENOUGH:
            found.append(clip)
        if len(found) == count:
            break
    return found
