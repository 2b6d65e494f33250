"""The names of LoRA branches in the authors' models, and those that PEFT gives them."""

import re

from sinkscope.avsr.lora_schemes import SHARED

__all__ = ["peft_name", "published_name"]

_PEFT = {"down": "A", "up": "B"}


def peft_name(name: str) -> str:
    """What a weight of the authors' own LLM is called once PEFT has put its branches in.

    Llama-AVSR has one branch, without a name; Omni-AVSR names those of its tasks, and calls the one
    that works beside them shared.

    >>> peft_name("model.layers.0.self_attn.lora_up_V.weight")
    'model.layers.0.self_attn.v_proj.lora_B.default.weight'
    >>> peft_name("model.layers.0.self_attn.lora_down_Q_shared.weight")
    'model.layers.0.self_attn.q_proj.lora_A.default.weight'
    >>> peft_name("model.layers.0.self_attn.lora_down_Q.video.weight")
    'model.layers.0.self_attn.q_proj.lora_A.video.weight'
    >>> peft_name("model.layers.0.self_attn.q_proj.weight")
    'model.layers.0.self_attn.q_proj.base_layer.weight'
    """
    branch = re.fullmatch(
        r"(.*\.self_attn)\.lora_(down|up)_([QV])(?:_shared|\.([\w-]+))?\.weight", name
    )
    if branch:
        block, way, letter, own = branch.groups()
        return f"{block}.{letter.lower()}_proj.lora_{_PEFT[way]}.{own or SHARED}.weight"
    return re.sub(r"(\.self_attn\.[qv]_proj)\.(weight|bias)$", r"\1.base_layer.\2", name)


def published_name(name: str, *, alone: bool = True) -> str:
    """The inverse of `peft_name`.

    Args:
        name: of a weight of an LLM with branches.
        alone: whether the shared branch, if there is one, is the only branch.

    >>> published_name("model.layers.0.self_attn.q_proj.lora_A.default.weight")
    'model.layers.0.self_attn.lora_down_Q.weight'
    >>> published_name("model.layers.0.self_attn.q_proj.lora_A.default.weight", alone=False)
    'model.layers.0.self_attn.lora_down_Q_shared.weight'
    """
    branch = re.fullmatch(r"(.*\.self_attn)\.([qv])_proj\.lora_([AB])\.([\w-]+)\.weight", name)
    if branch:
        block, letter, side, own = branch.groups()
        way = {"A": "down", "B": "up"}[side]
        end = f".{own}" if own != SHARED else "" if alone else "_shared"
        return f"{block}.lora_{way}_{letter.upper()}{end}.weight"
    return name.replace(".base_layer.", ".")
