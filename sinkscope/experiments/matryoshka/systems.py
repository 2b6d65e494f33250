"""The models of the experiment, before they are trained. Depends on torch."""

from dataclasses import replace
from pathlib import Path

import torch

from sinkscope.avsr.adapting import adapted
from sinkscope.avsr.config import LoraSettings
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.mome import MomeSettings
from sinkscope.experiments import tiny_avsr
from sinkscope.experiments.decorrelation.arms import read_weights, train_model
from sinkscope.experiments.matryoshka.plan import AUDIO, VIDEO, Arm
from sinkscope.experiments.tiny_encoders import KINDS
from sinkscope.experiments.tiny_stores import Stores
from sinkscope.experiments.tiny_training import Schedule

__all__ = ["EXPERTS", "LORA", "build", "hearing", "read_hearing", "train_hearing", "with_adapters"]

LORA = LoraSettings(reduction=4, alpha=4)
"""Rank 32, updates scaled by 1."""

EXPERTS = MomeSettings(placement="layer")
"""MoME-23/4-LAYER."""


def hearing(seed: int, *, steps: int) -> Schedule:
    """How the hearing model is taught: all tasks, at one pair of rates."""
    easy = (AUDIO[0], VIDEO[0])
    return Schedule(
        steps=steps,
        rates=(easy,),
        watched={task: (task, easy) for task in ("audio", "video", "audiovisual")},
        every=max(1, steps // 6),
        seed=2 * seed,
    )


def train_hearing(out: Path, seed: int, stores: Stores, *, steps: int) -> LlamaAvsr:
    """The hearing model of a seed, trained if it is not there."""
    folder = out / f"hears-seed{seed}"
    return train_model(folder, tiny_avsr.join(out, seed=seed), stores, hearing(seed, steps=steps))


def read_hearing(out: Path, seed: int) -> LlamaAvsr:
    """The trained hearing model of a seed."""
    return read_weights(tiny_avsr.join(out, seed=seed), out / f"hears-seed{seed}")


def build(out: Path, arm: Arm) -> LlamaAvsr:
    """An untrained model of an arm: the hearing model, frozen, with a projector a rate."""
    base = read_hearing(out, arm.seed)
    torch.manual_seed(arm.seed)
    return with_adapters(base, arm.system)


def with_adapters(base: LlamaAvsr, system: str) -> LlamaAvsr:
    """A system on a base, frozen but for its projectors and adapters."""
    scheme = "SS" if system == "ss" else "MS"
    own = {"mome": EXPERTS} if system == "mome" else {"lora": replace(LORA, scheme=scheme)}
    rates = {"audio_rates": AUDIO, "video_rates": VIDEO}
    model = adapted(base, projectors="per_rate", **rates, **own)
    for stream in KINDS:
        getattr(model, f"{stream}_encoder").requires_grad_(False)
    return model
