"""Only what was trained: a model folder that refers to its base models instead of holding them.

``adapters.safetensors`` holds every weight in which the model differs from its bases, bit by bit:
projectors, LoRA branches, the embeddings of the added tokens, BatchNorm statistics that drifted.
``bases.json`` names each base model, with a hash of its weights, which is checked when the model is
put together again.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sinkscope.avsr.avhubert.transformer import named_as_published
from sinkscope.avsr.avhubert.weights import PRETRAINING
from sinkscope.avsr.checkpoint import read_weights, state_hash, write_state
from sinkscope.avsr.fairseq_pickle import read_fairseq_checkpoint
from sinkscope.avsr.lora import peft_name
from sinkscope.errors import CheckpointError

__all__ = ["ADAPTERS", "BASES", "Base", "complete", "has_adapters", "write_adapters"]

ADAPTERS = "adapters.safetensors"
BASES = "bases.json"

_ADDED = ".added_rows"
"""Ending of the name of rows that follow those of a base's weight."""


@dataclass(frozen=True)
class Base:
    """A base model: a part of the whole, and where its weights are.

    Attributes:
        part: ``"llm"``, ``"audio_encoder"``, ``"video_encoder"`` or ``"audiovisual_encoder"``.
        kind: ``"llm"``, ``"whisper"``, ``"wavlm"`` or ``"avhubert"``.
        source: folder or hub id; of AV-HuBERT, the ``.pt`` file.
        hash: of its weights.
    """

    part: str
    kind: str
    source: str
    hash: str = ""


def has_adapters(folder: Path) -> bool:
    """Whether a model folder refers to base models."""
    return (folder / BASES).is_file()


def write_adapters(
    state: Mapping[str, Tensor], bases: list[Base], folder: Path, *, lora: bool
) -> int:
    """Writes what a model adds to its bases.

    Args:
        state: the whole model's weights.
        bases: what it is built on, their hashes left empty.
        folder: where ``adapters.safetensors`` and ``bases.json`` go.
        lora: whether the LLM has LoRA branches.

    Returns:
        How many weights differ from the bases or are not in them.

    Raises:
        CheckpointError: a base cannot be read.
    """
    found, hashed = {}, []
    for base in bases:
        own = _base_state(base, lora=lora)
        hashed.append(asdict(base) | {"hash": state_hash(own)})
        found |= own
    different = dict(_different(state, found))
    write_state(different.items(), folder, name=ADAPTERS)
    (folder / BASES).write_text(json.dumps(hashed, indent=2) + "\n", encoding="utf-8")
    return len(different)


def complete(folder: Path, *, lora: bool) -> dict[str, Tensor]:
    """The whole model's weights, from its folder and its bases.

    Raises:
        CheckpointError: a base cannot be read, or is another than the model was built on.
    """
    path = folder / BASES
    try:
        listed = [Base(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
        raise CheckpointError(
            f"{path} lists no base models ({error}); restore the file."
        ) from error
    state: dict[str, Tensor] = {}
    for base in listed:
        own = _base_state(base, lora=lora)
        if state_hash(own) != base.hash:
            raise CheckpointError(
                f"{folder} was trained on another {base.part} than {base.source} holds now (its "
                f"hash is {state_hash(own)}, not {base.hash}); restore that model."
            )
        state |= own
    for name, value in read_weights(folder, name=ADAPTERS).items():
        if name.endswith(_ADDED):
            first = state[name.removesuffix(_ADDED)]
            state[name.removesuffix(_ADDED)] = torch.cat([first.to(value), value])
        else:
            state[name] = value
    return state


def _different(
    state: Mapping[str, Tensor], bases: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        base = bases.get(name)
        if base is None:
            yield name, value
        elif base.shape == value.shape:
            if not torch.equal(base.to(value.dtype), value):
                yield name, value
        elif base.shape[1:] == value.shape[1:] and len(base) < len(value):
            same = torch.equal(base.to(value.dtype), value[: len(base)])
            yield (name + _ADDED, value[len(base) :]) if same else (name, value)
        else:
            yield name, value


def _base_state(base: Base, *, lora: bool) -> dict[str, Tensor]:
    """A base's weights by the names that they have in the whole model."""
    reader = _READERS.get(base.kind)
    if reader is None:
        raise CheckpointError(f"There is no base model of kind {base.kind!r}; restore {BASES}.")
    try:
        own = reader(base.source)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0][:200].rstrip(".")
        raise CheckpointError(
            f"The base model {base.source!r} ({base.part}) cannot be read ({reason}); restore it."
        ) from error
    if base.part == "llm":
        return {f"llm.{peft_name(name) if lora else name}": value for name, value in own.items()}
    return {f"{base.part}.model.{name}": value for name, value in own.items()}


def _llm(source: str) -> dict[str, Tensor]:
    from transformers import AutoModelForCausalLM

    return _weights(AutoModelForCausalLM.from_pretrained(source, dtype="auto"))


def _whisper(source: str) -> dict[str, Tensor]:
    from transformers import WhisperModel

    return _weights(WhisperModel.from_pretrained(source, dtype="auto").get_encoder())


def _wavlm(source: str) -> dict[str, Tensor]:
    from transformers import WavLMModel

    return _weights(WavLMModel.from_pretrained(source, dtype="auto"))


def _avhubert(source: str) -> dict[str, Tensor]:
    state = named_as_published(read_fairseq_checkpoint(source).state, "encoder.pos_conv.0.")
    return {name: value for name, value in state.items() if not name.startswith(PRETRAINING)}


def _weights(model: Any) -> dict[str, Tensor]:
    return dict(model.state_dict())


_READERS: dict[str, Callable[[str], dict[str, Tensor]]] = {
    "llm": _llm,
    "whisper": _whisper,
    "wavlm": _wavlm,
    "avhubert": _avhubert,
}
