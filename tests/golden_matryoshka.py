"""The golden models of several rates: published weights, answers, and the authors' numbers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sinkscope.avsr.convert import Answers, convert
from sinkscope.avsr.inputs import Inputs
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.streams import MODALITIES
from tests.golden_avsr import Case, golden_set, published_weights
from tests.released_checkpoints import STACKED
from tests.shared_data import ROOT, shared

SET = "golden/F_omni_matryoshka"
BATCH = "bA"
FAILING = "stack_nonmatry"
"""The authors' code fails on this one: without several rates it lacks an attribute."""


@cache
def matryoshka_set() -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """The set's description, own weights and outputs."""
    where = shared(SET)
    told = json.loads((where / "config.json").read_text())
    return (
        told,
        load_file(where / "weights_own.safetensors"),
        load_file(where / "outputs.safetensors"),
    )


def cases() -> list[str]:
    """Every case but the one that fails; one name that skips where the set is absent."""
    if not (ROOT / SET).is_dir():
        return ["none"]
    return [name for name in matryoshka_set()[0]["cases"] if name != FAILING]


def omni_weights(name: str) -> dict[str, Tensor]:
    """A case's weights under the published names, as in a released checkpoint."""
    told, own, _ = matryoshka_set()
    prefix = f"{name}/"
    mine = {key.removeprefix(prefix): own[key] for key in own if key.startswith(prefix)}
    plain = not told["cases"][name]["is_task_specific"]
    rest = {
        key: value
        for key, value in published_weights(STACKED).items()
        if "_proj." not in key.partition(".")[0] + "." and (plain or "lora_" not in key)
    }
    prompts = {f"prompt_{task}": torch.zeros(5, 64) for task in MODALITIES}
    return rest | mine | prompts


def omni_answers(sources: Answers, name: str) -> Answers:
    """What must be said of a case."""
    told, _, _ = matryoshka_set()
    stacks = told["cases"][name]["compression_mode"] == "stack"
    rates = {kind: tuple(told[f"rates_{kind}"]) for kind in ("audio", "video")}
    return replace(
        sources,
        lora_alpha=told["lora_config"]["ALPHA"],
        compression=None if stacks else "average",
        audio_rates=None if stacks else rates["audio"],
        video_rates=None if stacks else rates["video"],
    )


@dataclass(frozen=True, eq=False)
class Omni:
    """One case: its converted model, the samples, and the authors' numbers."""

    name: str
    model: LlamaAvsr
    told: dict[str, Any]
    outputs: dict[str, Tensor] = field(repr=False)
    frames: dict[tuple[str, int], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def encoded(self, stream: str, samples: int) -> tuple[Tensor, Tensor]:
        """What the encoder makes of the samples; once."""
        if (stream, samples) not in self.frames:
            case = Case(self.name, {"batch": BATCH}, self.model, golden_set()[1], {})
            batch, lengths = case.batch(stream, samples)
            frames = self.model.encode(stream, batch, lengths, strict_original=True)
            self.frames[stream, samples] = frames[:, : int(lengths[0])], lengths
        return self.frames[stream, samples]

    def tokens(self, stream: str, samples: int, rate: int) -> Tensor:
        """The projected tokens (sample, token, feature)."""
        frames, lengths = self.encoded(stream, samples)
        return self.model.project(stream, frames, lengths, rate=rate)[0]

    def inputs(
        self, task: str, rates: Mapping[str, int], *, samples: int = 2, texts: bool = True
    ) -> Inputs:
        """A prepared batch of one task."""
        rows = {stream: self.tokens(stream, samples, rates[stream]) for stream in MODALITIES[task]}
        parts = [
            self.model.parts(
                {stream: found[number] for stream, found in rows.items()},
                rates=dict(rates),
                text=golden_set()[0]["texts"][number] if texts else None,
            )
            for number in range(samples)
        ]
        return self.model.assemble(parts, strict_original=True)

    def losses(self, rates: Mapping[str, int]) -> Tensor:
        """The weighted losses of sound, picture and both."""
        weights = self.told["matry_weights"] or (1, 1, 1)
        found = [self.model(self.inputs(task, rates), use_cache=False).loss for task in MODALITIES]
        return torch.stack([w * one for w, one in zip(weights, found, strict=True)])


def converted(name: str, sources: Answers, folder: Path) -> Omni:
    """A case whose published checkpoint went through the converter."""
    told, _, outputs = matryoshka_set()
    torch.save(omni_weights(name), folder / f"{name}.pth")
    convert(folder / f"{name}.pth", folder / name, omni_answers(sources, name))
    prefix = f"{name}/"
    own = {key.removeprefix(prefix): outputs[key] for key in outputs if key.startswith(prefix)}
    return Omni(name, LlamaAvsr.from_pretrained(folder / name), told["cases"][name], own)
