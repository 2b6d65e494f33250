"""The names of the weights in a released Llama-AVSR checkpoint, and what they are called here."""

from collections.abc import Iterable, Mapping
from typing import Any

from sinkscope.avsr.avhubert.weights import PRETRAINING
from sinkscope.avsr.lora_names import peft_name, published_name

__all__ = ["PARTS", "is_left_out", "our_name", "part_of", "their_name"]

PARTS = (
    *("audio_encoder", "video_encoder", "audiovisual_encoder"),
    *("audio_proj", "video_proj", "audiovisual_proj", "llm"),
)
"""What the names begin with, before the first dot."""

_ROTARY = "rotary_emb.inv_freq"


def part_of(state: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The entries of one part, without its name.

    >>> part_of({"llm.a": 1, "audio_proj.0.bias": 2}, "llm")
    {'a': 1}
    """
    prefix = f"{part}."
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def is_left_out(name: str) -> bool:
    """Whether a weight plays no part in the model: rotary tables, heads of pre-training.

    >>> is_left_out("video_encoder.mask_emb"), is_left_out("video_proj.0.bias")
    (True, False)
    """
    part, _, rest = name.partition(".")
    return rest.endswith(_ROTARY) or (part.endswith("_encoder") and rest.startswith(PRETRAINING))


def our_name(name: str, *, lora: bool) -> str:
    """What a published weight is called in a `LlamaAvsr`.

    Args:
        name: its published name.
        lora: whether the LLM has LoRA branches.

    >>> our_name("audio_proj.0.weight", lora=True)
    'audio_projector.0.weight'
    >>> our_name("llm.model.layers.0.self_attn.lora_down_Q.weight", lora=True)
    'llm.model.layers.0.self_attn.q_proj.lora_A.default.weight'
    """
    part, _, rest = name.partition(".")
    if part == "llm":
        return f"llm.{peft_name(rest) if lora else rest}"
    if part.endswith("_proj"):
        return f"{part}ector.{rest}"
    return f"{part}.model.{rest}"


def their_name(name: str) -> str:
    """The inverse of `our_name`.

    >>> their_name("video_projector.2.bias")
    'video_proj.2.bias'
    >>> their_name("llm.model.layers.0.self_attn.v_proj.lora_B.default.weight")
    'llm.model.layers.0.self_attn.lora_up_V.weight'
    """
    part, _, rest = name.partition(".")
    if part == "llm":
        return f"llm.{published_name(rest)}"
    if part.endswith("_projector"):
        return f"{part.removesuffix('ector')}.{rest}"
    return f"{part}.{rest.removeprefix('model.')}"


def unknown_parts(names: Iterable[str]) -> list[str]:
    """Names that begin like no part of a Llama-AVSR."""
    return [name for name in names if name.partition(".")[0] not in PARTS]
