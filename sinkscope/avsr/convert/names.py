"""The names of the weights in a released checkpoint, and what they are called here.

Llama-AVSR has one projector a stream, Omni-AVSR (arXiv 2511.07253) one for each rate, by its index.
"""

from collections.abc import Iterable, Mapping, Sequence
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
_PROMPT = "prompt_"
"""What the name of an embedded prompt begins with, which Omni-AVSR keeps beside the weights."""


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
    """Whether a weight plays no part in the model: rotary tables, heads of pre-training, prompts.

    >>> is_left_out("video_encoder.mask_emb"), is_left_out("video_proj.0.bias")
    (True, False)
    """
    part, _, rest = name.partition(".")
    if part.startswith(_PROMPT):
        return True
    return rest.endswith(_ROTARY) or (part.endswith("_encoder") and rest.startswith(PRETRAINING))


def our_name(name: str, *, lora: bool, rates: Mapping[str, Sequence[int]] | None = None) -> str:
    """What a published weight is called in a `LlamaAvsr`.

    Args:
        name: its published name.
        lora: whether the LLM has LoRA branches.
        rates: of each stream, in the authors' order, where each has a projector of its own.

    >>> our_name("audio_proj.0.weight", lora=True)
    'audio_projector.0.weight'
    >>> our_name("audio_proj.1.0.weight", lora=True, rates={"audio": (4, 16)})
    'audio_projector.16.0.weight'
    >>> our_name("llm.model.layers.0.self_attn.lora_down_Q.weight", lora=True)
    'llm.model.layers.0.self_attn.q_proj.lora_A.default.weight'
    """
    part, _, rest = name.partition(".")
    if part == "llm":
        return f"llm.{peft_name(rest) if lora else rest}"
    if not part.endswith("_proj"):
        return f"{part}.model.{rest}"
    if rates is not None:
        number, _, rest = rest.partition(".")
        rest = f"{rates[part.removesuffix('_proj')][int(number)]}.{rest}"
    return f"{part}ector.{rest}"


def their_name(
    name: str, *, rates: Mapping[str, Sequence[int]] | None = None, alone: bool = True
) -> str:
    """The inverse of `our_name`.

    Args:
        name: of a weight of a `LlamaAvsr`.
        rates: as in `our_name`.
        alone: whether the LLM has at most one LoRA branch.

    >>> their_name("video_projector.2.bias")
    'video_proj.2.bias'
    >>> their_name("video_projector.2.0.bias", rates={"video": (5, 2)})
    'video_proj.1.0.bias'
    >>> their_name("llm.model.layers.0.self_attn.v_proj.lora_B.default.weight")
    'llm.model.layers.0.self_attn.lora_up_V.weight'
    """
    part, _, rest = name.partition(".")
    if part == "llm":
        return f"llm.{published_name(rest, alone=alone)}"
    if not part.endswith("_projector"):
        return f"{part}.{rest.removeprefix('model.')}"
    if rates is not None:
        rate, _, rest = rest.partition(".")
        rest = f"{tuple(rates[part.removesuffix('_projector')]).index(int(rate))}.{rest}"
    return f"{part.removesuffix('ector')}.{rest}"


def unknown_parts(names: Iterable[str]) -> list[str]:
    """Names that begin like no part of a Llama-AVSR."""
    return [name for name in names if name.partition(".")[0] not in PARTS]
