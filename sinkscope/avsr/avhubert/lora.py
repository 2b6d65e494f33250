"""Adds the LoRA updates of an AV-HuBERT to its weights."""

from dataclasses import replace
from typing import Any

import torch

from sinkscope.avsr.avhubert.model import AvHubert
from sinkscope.avsr.avhubert.transformer import wide

__all__ = ["merge_lora"]


@torch.no_grad()
def merge_lora(model: AvHubert) -> AvHubert:
    """The model with ``W + scale · U D`` in place of W on q and v, and without branches; in place.

    The update is made and added in float32 at least; the sum has the weight's own dtype.
    """
    for layer in model.encoder.layers:
        attention: Any = layer.self_attn
        if not attention.has_lora:
            continue
        for letter in ("Q", "V"):
            weight = attention.get_submodule(f"{letter.lower()}_proj").weight
            dtype = wide(weight.dtype)
            down = attention.get_submodule(f"lora_down_{letter}").weight.to(dtype)
            up = attention.get_submodule(f"lora_up_{letter}").weight.to(dtype)
            weight.copy_(weight.to(dtype) + attention.lora_scale * up @ down)
            delattr(attention, f"lora_down_{letter}")
            delattr(attention, f"lora_up_{letter}")
        attention.has_lora = False
    model.config = replace(model.config, lora_rank=None)
    return model
