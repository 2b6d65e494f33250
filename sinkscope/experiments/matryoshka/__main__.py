"""The command: ``python -m sinkscope.experiments.matryoshka OUT --report FOLDER``.

Trains whatever is not trained yet, measures what is not measured, and writes the report.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from sinkscope.experiments.decorrelation.__main__ import prepare
from sinkscope.experiments.matryoshka.plan import SYSTEMS, Arm, Sizes
from sinkscope.experiments.matryoshka.report import write_report
from sinkscope.experiments.matryoshka.running import (
    best_rates,
    best_weight,
    choose_numbers,
    refuse_other_sizes,
    run_arms,
    run_experts,
    run_hearing,
)

__all__ = ["arms_of", "longer_arms", "main"]


def arms_of(
    seeds: Sequence[int], rates: dict[str, float], weight: float | int, systems: Sequence[str]
) -> list[Arm]:
    """Every system of every seed, without the loss and with it."""
    return [
        Arm(seed, system, own, rates["mome" if system == "mome" else "ms"])
        for seed in seeds
        for system in systems
        for own in (0.0, weight)
    ]


def by_size(arm: Arm) -> int:
    """What is trained first: systems that every question is about, then what takes longest."""
    return 2 if arm.system == "ss" else int(arm.longer)


def longer_arms(arms: Sequence[Arm]) -> list[Arm]:
    """The arms that are trained longer, to see what more steps would change: one seed, no loss."""
    first = min(arm.seed for arm in arms)
    return [
        replace(arm, longer=True)
        for arm in arms
        if (arm.seed, arm.weight) == (first, 0) and arm.system in ("ms", "mome")
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, and do what is left to do."""
    parser = argparse.ArgumentParser(description="One model for many rates, three ways.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--report", type=Path, help="where the report goes; default OUT/report")
    for name, value in asdict(Sizes()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    given = parser.parse_args(arguments)
    sizes = Sizes(**{name: getattr(given, name) for name in asdict(Sizes())})
    out, workers = given.out, given.workers
    refuse_other_sizes(out, sizes)
    prepare(out, given.seeds)
    run_hearing(out, given.seeds, sizes, workers=workers)
    table = choose_numbers(out, sizes, seed=min(given.seeds), workers=workers)
    weight, rates = best_weight(table), best_rates(table)
    arms = arms_of(given.seeds, rates, weight, list(SYSTEMS))
    longer = longer_arms(arms)
    run_arms(out, sorted([*arms, *longer], key=by_size), sizes, workers=workers)
    base, tuned = (
        [arm for arm in arms if arm.system == "mome" and (arm.weight > 0) is with_loss]
        for with_loss in (False, True)
    )
    run_experts(out, base, tuned, sizes, workers=workers)
    write_report(
        out, given.report or out / "report", arms=[*arms, *longer], table=table, sizes=sizes
    )


if __name__ == "__main__":
    main()
