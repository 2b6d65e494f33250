"""What was measured, read back as tables. Depends on numpy and pandas.

Intervals are 95 % percentile intervals of a bootstrap over seeds and utterances at once: seeds are
drawn with replacement, and utterances, the same ones for every seed and for both sides of a
difference. Three seeds say little of other seeds; the lowest and highest are given beside.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from sinkscope.analysis.bootstrap import bootstrap_interval, bootstrap_weights
from sinkscope.experiments.decorrelation.plan import LEVELS, TASKS, Arm, Cell

__all__ = [
    "NUMBERS",
    "Sample",
    "difference",
    "folder_of",
    "numbers_table",
    "read_sample",
    "sample_of",
    "wer_table",
]

NUMBERS = {
    "largest_sink_rate": "sink rate of BOS",
    "sink_rate_elsewhere": "largest sink rate of another token",
    "n_intermediate": "intermediate sinks a clip",
    "n_twins": "twins of BOS a clip",
    "largest_ratio": "largest activation over the median",
    "n_massive_tokens": "massive tokens a clip, BOS apart",
    "cos2": "mean squared cosine to BOS",
}
"""The numbers of a clip that are shown, and what they are called."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One number of every utterance under every seed: a sum and what it is divided by.

    Attributes:
        above: what is summed.
        below: what the sum is divided by, the same for all seeds.
    """

    above: Float[np.ndarray, "seed utterance"]
    below: Float[np.ndarray, " utterance"]

    def rates(self, weights: Float[np.ndarray, "draw utterance"]) -> Float[np.ndarray, "draw seed"]:
        """The ratio for every draw of utterances and every seed."""
        return (weights @ self.above.T) / (weights @ self.below)[:, None]


def difference(
    after: Sample, before: Sample | None = None, *, draws: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """The mean over seeds, or its difference between two samples, with its interval."""
    seeds, utterances = after.above.shape
    words = bootstrap_weights(utterances, draws=draws, seed=seed)
    runs = bootstrap_weights(seeds, draws=draws, seed=seed + 1)

    def mean(weights: Float[np.ndarray, "draw both"]) -> Float[np.ndarray, "draw 1"]:
        own, drawn = weights[:, :utterances], weights[:, utterances:]
        rates = after.rates(own) - (before.rates(own) if before else 0.0)
        return ((rates * drawn).sum(-1) / drawn.sum(-1))[:, None]

    point, low, high = bootstrap_interval(mean, np.concatenate([words, runs], axis=1))
    return float(point[0]), float(low[0]), float(high[0])


def folder_of(out: Path, arm: Arm, task: str, level: str, *, stage: str) -> Path:
    """Where the measurements of a stage are: ``"own"``, ``"shared"`` or ``"step zero"``."""
    if stage == "own":
        return out / Cell(arm, task, level).name
    name = arm.name if stage == "shared" else f"step-zero-{arm.name}"
    return out / name / f"{task}-{level}"


def sample_of(
    out: Path, arms: Sequence[Arm], task: str, level: str, *, stage: str, number: str
) -> Sample | None:
    """A number over the seeds of one kind of arm; None where one of them is not there.

    Args:
        out: folder of all results.
        arms: of different seeds.
        task: a modality.
        level: of compression.
        stage: see `folder_of`.
        number: ``"wer"``, or a column of ``numbers.csv``.
    """
    folders = [folder_of(out, arm, task, level, stage=stage) for arm in arms]
    if not folders or not all((folder / "sinks.csv").exists() for folder in folders):
        return None
    return read_sample(folders, number)


def read_sample(folders: Sequence[Path], number: str) -> Sample:
    """A number of every utterance, a folder of measurements a seed.

    Args:
        folders: what `sinkscope.experiments.decorrelation.measuring.measure` wrote.
        number: ``"wer"``, or a column of ``numbers.csv``.
    """
    if number == "wer":
        counts = np.array([json.loads((one / "errors.json").read_text()) for one in folders])
        return Sample(counts[..., 1:].sum(-1).astype(float), counts[0, :, 0].astype(float))
    columns = [pd.read_csv(one / "numbers.csv")[number].to_numpy(float) for one in folders]
    values = np.stack(columns)
    return Sample(values, np.ones(values.shape[1]))


def wer_table(
    out: Path, pairs: dict[str, tuple[Sequence[Arm], Sequence[Arm]]], *, stage: str = "own"
) -> pd.DataFrame:
    """Word error rates without and with the loss, and their difference.

    Args:
        out: folder of all results.
        pairs: the arms without and with the loss, by scheme.
        stage: see `folder_of`.
    """
    return _table(out, pairs, ["wer"], stage=stage).drop(columns="number")


def numbers_table(
    out: Path, pairs: dict[str, tuple[Sequence[Arm], Sequence[Arm]]], *, stage: str = "own"
) -> pd.DataFrame:
    """The `NUMBERS` without and with the loss, as `wer_table`."""
    return _table(out, pairs, list(NUMBERS), stage=stage)


def _table(
    out: Path,
    pairs: dict[str, tuple[Sequence[Arm], Sequence[Arm]]],
    numbers: Sequence[str],
    *,
    stage: str,
) -> pd.DataFrame:
    rows = []
    for (scheme, (base, tuned)), (task, modality), level, number in product(
        pairs.items(), TASKS.items(), LEVELS, numbers
    ):
        how = {"stage": stage, "number": number}
        before = sample_of(out, base, modality, level, **how)
        after = sample_of(out, tuned, modality, level, **how)
        if before is None or after is None:
            continue
        row = {"scheme": scheme, "task": task, "level": level, "number": number}
        row |= {"seeds": len(base), "utterances": before.above.shape[1]}
        row |= _named("without", *difference(before)) | _range("without", before)
        row |= _named("with", *difference(after)) | _range("with", after)
        rows.append(row | _named("difference", *difference(after, before)))
    return pd.DataFrame(rows)


def _named(name: str, point: float, low: float, high: float) -> dict[str, float]:
    return {name: point, f"{name}_low": low, f"{name}_high": high}


def _range(name: str, sample: Sample) -> dict[str, float]:
    rates = sample.rates(np.ones((1, len(sample.below))))[0]
    return {f"{name}_lowest_seed": rates.min(), f"{name}_highest_seed": rates.max()}
