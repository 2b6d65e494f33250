"""What was measured, read back as tables. Depends on numpy and pandas.

Intervals are those of `sinkscope.experiments.decorrelation.results`: a bootstrap over seeds and
utterances at once, the same draws for everything that is compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from sinkscope.analysis.bootstrap import bootstrap_interval, bootstrap_weights
from sinkscope.experiments.decorrelation.results import NUMBERS, Sample, read_sample
from sinkscope.experiments.matryoshka.plan import SETTINGS, Arm, Setting
from sinkscope.experiments.matryoshka.running import folder_of

__all__ = [
    "Arms",
    "combined",
    "help_table",
    "longer_table",
    "number_table",
    "sample_of",
    "system_table",
    "wer_table",
]

Arms = Mapping[str, tuple[Sequence[Arm], Sequence[Arm]]]
"""The arms of each system, a seed each: without the loss, and with it."""

Interval = tuple[float, float, float]


def sample_of(
    out: Path, arms: Sequence[Arm], setting: Setting, *, number: str = "wer"
) -> Sample | None:
    """A number of every utterance under every seed; None where an arm was not measured.

    Args:
        out: folder of all results.
        arms: of different seeds.
        setting: task and rates.
        number: ``"wer"``, or a column of ``numbers.csv``.
    """
    folders = [folder_of(out, arm, setting) for arm in arms]
    if not folders or not all((folder / "sinks.csv").exists() for folder in folders):
        return None
    return read_sample(folders, number)


def combined(
    samples: Sequence[tuple[float, Sample]], *, draws: int = 4000, seed: int = 0
) -> Interval:
    """A weighted sum of samples' rates, its mean over seeds, and its interval.

    Args:
        samples: factors and samples, of the same utterances under the same seeds.
        draws: of the bootstrap.
        seed: of the draws.
    """
    seeds, utterances = samples[0][1].above.shape
    words = bootstrap_weights(utterances, draws=draws, seed=seed)
    runs = bootstrap_weights(seeds, draws=draws, seed=seed + 1)

    def mean(weights: Float[np.ndarray, "draw both"]) -> Float[np.ndarray, "draw 1"]:
        own, drawn = weights[:, :utterances], weights[:, utterances:]
        rates = sum((by * sample.rates(own) for by, sample in samples), np.zeros(()))
        return ((rates * drawn).sum(-1) / drawn.sum(-1))[:, None]

    point, low, high = bootstrap_interval(mean, np.concatenate([words, runs], axis=1))
    return float(point[0]), float(low[0]), float(high[0])


def wer_table(out: Path, arms: Arms) -> pd.DataFrame:
    """Word error rates of every system and setting without and with the loss.

    Returns:
        ``system task audio_rate video_rate seeds utterances``, then ``without``, ``with`` and
        ``difference``, each with ``_low`` and ``_high``.
    """
    return _table(out, arms, ["wer"]).drop(columns="number")


def number_table(out: Path, arms: Arms) -> pd.DataFrame:
    """Sinks, twins and massive activations as `wer_table`, a row a ``number``."""
    return _table(out, arms, list(NUMBERS))


def system_table(out: Path, arms: Arms) -> pd.DataFrame:
    """Every other system's word error rate minus that of one model a setting, without the loss."""
    rows = []
    for system, setting in product([name for name in arms if name != "separate"], SETTINGS):
        alone = sample_of(out, arms["separate"][0], setting)
        own = sample_of(out, arms[system][0], setting)
        if alone is not None and own is not None:
            found = combined([(1.0, own), (-1.0, alone)])
            rows.append({"system": system, **_named(setting), **_ends("difference", found)})
    return pd.DataFrame(rows)


def help_table(out: Path, arms: Arms) -> pd.DataFrame:
    """Does the loss help more at the highest rates of a task than at the lowest?

    Returns:
        ``system task``, then ``lowest`` and ``highest`` (word error rate with the loss minus that
        without, at the task's first and last setting) and ``more`` (highest minus lowest; below 0
        where it helps more there), each with its interval.
    """
    rows = []
    for system, task in product(arms, dict.fromkeys(one.task for one in SETTINGS)):
        ends = [one for one in SETTINGS if one.task == task]
        found = [
            (sample_of(out, arms[system][1], one), sample_of(out, arms[system][0], one))
            for one in (ends[0], ends[-1])
        ]
        if any(sample is None for pair in found for sample in pair):
            continue
        pairs = [[(1.0, after), (-1.0, before)] for after, before in found if after and before]
        low, high = pairs
        more = [*high, *((-by, sample) for by, sample in low)]
        row = {"system": system, "task": task}
        for name, terms in {"lowest": low, "highest": high, "more": more}.items():
            row |= _ends(name, combined(terms))
        rows.append(row)
    return pd.DataFrame(rows)


def longer_table(out: Path, arms: Sequence[Arm]) -> pd.DataFrame:
    """Word error rates of the arms that were trained longer, and what the steps changed."""
    rows = []
    for arm, setting in product([arm for arm in arms if arm.longer], SETTINGS):
        own = sample_of(out, [arm], setting)
        short = sample_of(out, [replace(arm, longer=False)], setting)
        if own is None or short is None:
            continue
        row = {"system": arm.system, "seed": arm.seed, **_named(setting)}
        row |= _ends("longer", combined([(1.0, own)]))
        rows.append(row | _ends("difference", combined([(1.0, own), (-1.0, short)])))
    return pd.DataFrame(rows)


def _table(out: Path, arms: Arms, numbers: Sequence[str]) -> pd.DataFrame:
    rows = []
    for (system, (base, tuned)), setting, number in product(arms.items(), SETTINGS, numbers):
        before = sample_of(out, base, setting, number=number)
        after = sample_of(out, tuned, setting, number=number)
        if before is None or after is None:
            continue
        row = {"system": system, **_named(setting), "number": number}
        row |= {"seeds": len(base), "utterances": before.above.shape[1]}
        row |= _ends("without", combined([(1.0, before)])) | _ends("with", combined([(1.0, after)]))
        rows.append(row | _ends("difference", combined([(1.0, after), (-1.0, before)])))
    return pd.DataFrame(rows)


def _named(setting: Setting) -> dict[str, str | int]:
    return {
        "task": setting.task,
        "audio_rate": setting.audio_rate,
        "video_rate": setting.video_rate,
    }


def _ends(name: str, found: Interval) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))
