"""Train and measure the arms, in processes of one thread each. Depends on torch.

Every job leaves its folder whole or not at all, so a run that was stopped goes on where it was.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd

from sinkscope.avsr.model import LlamaAvsr
from sinkscope.errors import CheckpointError
from sinkscope.experiments.decorrelation.measuring import measure
from sinkscope.experiments.jobs import run_jobs
from sinkscope.experiments.matryoshka.experts import (
    folder_of_experts,
    look_at_experts,
    sides_of,
)
from sinkscope.experiments.matryoshka.plan import (
    RATES_OF_LEARNING,
    SETTINGS,
    WEIGHTS,
    Arm,
    Setting,
    Sizes,
)
from sinkscope.experiments.matryoshka.systems import build, train_hearing
from sinkscope.experiments.matryoshka.training import Recipe, read_trained, train_at
from sinkscope.experiments.tiny_stores import stores_of, unseen_clips, unseen_store

__all__ = [
    "best_rates",
    "best_weight",
    "choose_numbers",
    "folder_of",
    "read_model",
    "refuse_other_sizes",
    "run_arms",
    "run_experts",
    "run_hearing",
]

LONG_ENOUGH = 2.56
"""Seconds of a clip that give 8 tokens a stream at the highest rates; sinks are sought in these."""


def run_hearing(out: Path, seeds: Sequence[int], sizes: Sizes, *, workers: int = 2) -> None:
    """Encode the corpus, and train the hearing model of every seed."""
    stores_of(out)
    unseen_store(out)
    run_jobs(seeds, partial(_hear, out, sizes), workers)


def refuse_other_sizes(out: Path, sizes: Sizes) -> None:
    """Write how much is done into the folder of results, or refuse to do another amount there.

    Raises:
        CheckpointError: the folder was made with other sizes.
    """
    path = out / "sizes.json"
    if path.exists() and json.loads(path.read_text()) != asdict(sizes):
        raise CheckpointError(
            f"{out} was made with other sizes ({path.name} tells which); choose another folder."
        )
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(sizes), indent=1) + "\n")


def choose_numbers(out: Path, sizes: Sizes, *, seed: int = 0, workers: int = 2) -> pd.DataFrame:
    """Short runs of one seed, by which learning rates and weight are chosen.

    Returns:
        One row a run: ``system weight learning_rate mean``, the mean word error rate on the
        development voices over all settings. First the learning rates of LoRA (which all systems
        with LoRA then have) and of the experts, without the loss; then, at the better one, the
        weights of the loss.
    """
    rates = [
        Arm(seed, system, learning_rate=rate)
        for system, rate in product(("ms", "mome"), RATES_OF_LEARNING)
    ]
    table = _swept(out, rates, sizes, workers)
    best = best_rates(table)
    weights = [Arm(seed, system, weight, best[system]) for system, weight in product(best, WEIGHTS)]
    table = pd.concat([table, _swept(out, weights, sizes, workers)], ignore_index=True)
    table.to_csv(out / "sweep.csv", index=False)
    return table


def best_rates(table: pd.DataFrame) -> dict[str, float]:
    """The best learning rate of each system without the loss."""
    plain = table.loc[table["weight"] == 0]
    best = plain.loc[plain.groupby("system", sort=False)["mean"].idxmin()]
    return {str(row["system"]): float(row["learning_rate"]) for row in best.to_dict("records")}


def best_weight(table: pd.DataFrame) -> float:
    """The weight of the loss, of those above 0, with the least mean error of both systems."""
    with_loss = table.loc[table["weight"] > 0]
    return float(with_loss.groupby("weight")["mean"].mean().idxmin())


def run_arms(out: Path, arms: Sequence[Arm], sizes: Sizes, *, workers: int = 2) -> None:
    """Train every model of some arms and measure it at its settings."""
    jobs = [(arm, number) for arm in arms for number in range(len(arm.parts))]
    run_jobs(jobs, partial(_do_part, out, sizes), workers)


def run_experts(
    out: Path, base: Sequence[Arm], tuned: Sequence[Arm], sizes: Sizes, *, workers: int = 2
) -> None:
    """Look at the experts of the MoME arms: untrained, without the loss and with it."""
    jobs = [
        (arm.seed, side, own)
        for arm in base
        for side, own in sides_of(arm.seed, base, tuned).items()
    ]
    run_jobs(jobs, partial(_look, out, sizes), workers)


def folder_of(out: Path, arm: Arm, setting: Setting) -> Path:
    """Where the measurements of an arm at a setting are."""
    return out / arm.name / setting.name


def read_model(out: Path, arm: Arm, setting: Setting) -> LlamaAvsr:
    """The trained model of an arm that is for a setting."""
    number = next(n for n, settings in enumerate(arm.parts) if setting in settings)
    return read_trained(build(out, arm), out / arm.name / f"model-{number}")


def _swept(out: Path, arms: Sequence[Arm], sizes: Sizes, workers: int) -> pd.DataFrame:
    run_jobs(arms, partial(_sweep_one, out, sizes), workers)
    rows = []
    for arm in arms:
        last = json.loads((_sweep_folder(out, arm) / "curve.json").read_text())[-1]
        errors = [last[setting.name] for setting in SETTINGS]
        row = {"system": arm.system, "weight": arm.weight, "learning_rate": arm.learning_rate}
        rows.append(row | {"mean": sum(errors) / len(errors), "steps": last["step"]})
    return pd.DataFrame(rows)


def _sweep_folder(out: Path, arm: Arm) -> Path:
    return out / "sweep" / f"{arm.name}-rate{arm.learning_rate:g}"


def _hear(out: Path, sizes: Sizes, seed: int) -> None:
    train_hearing(out, seed, stores_of(out), steps=sizes.hearing)


def _sweep_one(out: Path, sizes: Sizes, arm: Arm) -> None:
    recipe = replace(_recipe(arm, sizes), steps=sizes.sweep)
    folder = _sweep_folder(out, arm)
    train_at(build(out, arm), SETTINGS, stores_of(out), folder=folder, recipe=recipe)


def _recipe(arm: Arm, sizes: Sizes) -> Recipe:
    steps = sizes.longer if arm.longer else sizes.steps
    return Recipe(steps, sizes.batch, arm.learning_rate, arm.weight, seed=arm.seed)


def _do_part(out: Path, sizes: Sizes, job: tuple[Arm, int]) -> None:
    arm, number = job
    settings = arm.parts[number]
    model = train_at(
        build(out, arm),
        settings,
        stores_of(out),
        folder=out / arm.name / f"model-{number}",
        recipe=_recipe(arm, sizes),
    )
    for setting in settings:
        measure(
            model,
            folder_of(out, arm, setting),
            store=unseen_store(out),
            clips=unseen_clips(out, sizes.looked_at, LONG_ENOUGH),
            task=setting.task,
            rates=setting.rates,
        )


def _look(out: Path, sizes: Sizes, job: tuple[int, str, Arm | None]) -> None:
    seed, side, arm = job
    whole = SETTINGS[-1]
    model = build(out, Arm(seed, "mome")).eval() if arm is None else read_model(out, arm, whole)
    look_at_experts(
        model, unseen_clips(out, sizes.looked_at, LONG_ENOUGH), folder_of_experts(out, seed, side)
    )
