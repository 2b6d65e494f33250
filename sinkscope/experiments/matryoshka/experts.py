"""What the experts of the MoME arms do, with the package's own probes. Depends on torch.

Every arm is measured once before training (``untrained``: routers at random beside the hearing
model) and once trained without and with the loss, on the same test clips, both streams, at every
pair of rates.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from sinkscope.analysis.experts import expert_balance
from sinkscope.analysis.rate_similarity import rate_similarity
from sinkscope.analysis.sink_agreement import sink_agreement
from sinkscope.analysis.sink_experts import sink_experts
from sinkscope.analysis.sinks import find_sinks
from sinkscope.analysis.sinks_by_rate import sink_share, sinks_by_rate
from sinkscope.analysis.usage_across_rates import usage_across_rates
from sinkscope.avsr.clip import Clip
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.experiments.decorrelation.measuring import subject_of
from sinkscope.experiments.matryoshka.plan import SETTINGS, Arm
from sinkscope.probes.rates import record_rates
from sinkscope.record import Record

__all__ = ["PAIRS", "TABLES", "folder_of_experts", "look_at_experts", "read_experts", "sides_of"]

PAIRS = tuple(one.rates for one in SETTINGS if one.task == "audiovisual")
TABLES = ("usage", "balance", "sink_experts", "sink_share", "agreement", "similarity")


def sides_of(seed: int, base: Sequence[Arm], tuned: Sequence[Arm]) -> dict[str, Arm | None]:
    """The arms of one seed by side; None is the untrained one."""
    own = {"without": base, "with": tuned}
    found = {name: next(arm for arm in arms if arm.seed == seed) for name, arms in own.items()}
    return {"untrained": None, **found}


def look_at_experts(model: LlamaAvsr, clips: Sequence[Clip], folder: Path) -> None:
    """Write the `TABLES` of one model to a folder, once."""
    if (folder / f"{TABLES[-1]}.csv").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    subject = subject_of(model, "audiovisual", PAIRS[0])
    records = record_rates(subject, list(clips), PAIRS, keep=["resid_post"])
    first = records[PAIRS[0]]
    sinks = sinks_by_rate(records)
    tables = {
        "usage": usage_across_rates(records),
        "balance": expert_balance(first),
        "sink_experts": _sink_experts(records),
        "sink_share": sink_share(records, sinks),
        "agreement": sink_agreement(records, sinks),
        "similarity": rate_similarity(first, records[PAIRS[-1]]),
    }
    for name in TABLES:
        tables[name].to_csv(folder / f"{name}.new", index=False)
        (folder / f"{name}.new").replace(folder / f"{name}.csv")


def _sink_experts(records: Mapping[tuple[int, int], Record]) -> pd.DataFrame:
    """What `sink_experts` says at the lowest and the highest rates."""
    parts = []
    for pair in (PAIRS[0], PAIRS[-1]):
        found = sink_experts(records[pair], find_sinks(records[pair]))
        found.attrs = {}
        found.insert(0, "audio_rate", pair[0])
        found.insert(1, "video_rate", pair[1])
        parts.append(found)
    return pd.concat(parts, ignore_index=True)


def read_experts(out: Path, seeds: Sequence[int], sides: Sequence[str], table: str) -> pd.DataFrame:
    """One of the `TABLES` of all seeds and sides, with columns ``seed`` and ``side`` in front."""
    parts = []
    for seed in seeds:
        for side in sides:
            path = folder_of_experts(out, seed, side) / f"{table}.csv"
            if path.exists():
                part = pd.read_csv(path)
                part.insert(0, "seed", seed)
                part.insert(1, "side", side)
                parts.append(part)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def folder_of_experts(out: Path, seed: int, side: str) -> Path:
    """Where the tables of a seed and side are."""
    return out / "experts" / f"{side}-seed{seed}"
