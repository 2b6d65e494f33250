"""``sinkscope train``: fine-tune an audio-visual LLM, with the decorrelation loss or without."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["train"]


def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A YAML file; see examples/train.yaml.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder of the run.")],
    quiet: Annotated[bool, typer.Option(help="No progress bar and no lines of the log.")] = False,
) -> None:
    """Train as CONFIG says, or go on with a run that was stopped: the same command, the same end.

    Writes config.yaml, run.json, log.csv, tensorboard/, checkpoints/ and model/, which every
    command takes as its CHECKPOINT.
    """
    from rich.console import Console

    from sinkscope.training.config import TrainConfig

    settings = TrainConfig.read(config)
    from sinkscope.training.run import train as run

    console = Console(highlight=False, soft_wrap=True)
    found = run(settings, output, quiet=quiet, say=lambda line: console.print(line, markup=False))
    for name, line in (found.get("dev") or {}).items():
        low, high = 100 * line["wer_low"], 100 * line["wer_high"]
        words = f"{name}: WER {line['wer']:.1%} ({low:.1f}-{high:.1f}) of {line['words']} words"
        console.print(words, markup=False)
    if found.get("dev_error"):
        console.print(f"dev could not be scored: {found['dev_error']}", markup=False)
    console.print(f"wrote {output}", markup=False)
