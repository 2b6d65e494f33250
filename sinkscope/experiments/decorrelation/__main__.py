"""The command: ``python -m sinkscope.experiments.decorrelation OUT --report FOLDER``.

Trains whatever is not trained yet, measures what is not measured, and writes the report.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sinkscope.avsr.synthetic import Split
from sinkscope.experiments import tiny_avsr
from sinkscope.experiments.corpus import make_corpus
from sinkscope.experiments.decorrelation.plan import CONTROLS, Arm, Sizes
from sinkscope.experiments.decorrelation.report import write_report
from sinkscope.experiments.decorrelation.running import (
    closer,
    run_arms,
    run_cells,
    step_zero,
    sweep,
)
from sinkscope.experiments.tiny_encoders import KINDS, Plan, train_encoder
from sinkscope.experiments.tiny_lm import Pretraining, pretrain

__all__ = ["main"]


def prepare(out: Path, seeds: Sequence[int]) -> None:
    """The corpus, the encoders and one language model a seed."""
    sizes: dict[Split, int] = tiny_avsr.SIZES
    make_corpus(out / "corpus", sizes)
    for stream in KINDS:
        if not (out / "encoders" / f"{stream}.done").exists():
            train_encoder(out / "corpus", out / "encoders", Plan(stream))
            (out / "encoders" / f"{stream}.done").touch()
    for seed in seeds:
        pretrain(out / f"lm-{seed}", Pretraining(seed=seed))


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, and do what is left to do."""
    parser = argparse.ArgumentParser(description="What the decorrelation loss changes.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--report", type=Path, help="where the report goes; default OUT/report")
    given = parser.parse_args(arguments)
    prepare(given.out, given.seeds)
    sizes, workers = Sizes(), given.workers
    table = sweep(given.out, sizes, workers=workers)
    weight = float(table.loc[table["weight"] > 0].set_index("weight")["mean"].idxmin())
    full = [Arm(seed, weight=w) for seed in given.seeds for w in (0.0, weight)]
    run_arms(given.out, full, sizes, workers=workers)
    base = [Arm(seed) for seed in given.seeds]
    step_zero(given.out, base, sizes)
    run_cells(given.out, full, sizes, workers=workers)
    lora = [replace(arm, scheme="lora") for arm in full]
    run_cells(given.out, lora, sizes, workers=workers)
    controls = [
        Arm(seed, weight=weight if control == "random direction" else 0.0, control=control)
        for control in CONTROLS
        for seed in given.seeds
    ]
    run_arms(given.out, controls, sizes, workers=workers)
    closer(given.out, base, sizes, workers=workers)
    write_report(
        given.out,
        given.report or given.out / "report",
        seeds=given.seeds,
        weight=weight,
        sizes=sizes,
    )


if __name__ == "__main__":
    main()
