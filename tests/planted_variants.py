"""The plant in other families: parallel blocks, MLPs without a gate, post-norms, multipliers.

Example:
    >>> plant = planted_gelu("gpt2")
    >>> plant.writes(plant.layer).shape, plant.neuron
    (torch.Size([64, 96]), 11)
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tests.planted import SIZES, Plan, Planted
from tests.planted_parts import WIDTH, Parts, parts_of
from tests.planted_plan import plant

_ROTARY = SIZES["rope_parameters"]
_FIELDS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "vocab_size": SIZES["vocab_size"],
        "n_embd": 64,
        "n_inner": 96,
        "n_layer": 5,
        "n_head": 8,
        "n_positions": 256,
        "bos_token_id": SIZES["bos_token_id"],
        "eos_token_id": 2,
    },
    "opt": SIZES | {"ffn_dim": 96, "word_embed_proj_dim": 64, "dropout": 0.0},
    "starcoder2": SIZES | {"num_key_value_heads": 2, "sliding_window": 4096},
    "phi": SIZES | {"rope_parameters": _ROTARY | {"partial_rotary_factor": 0.5}},
    "gpt_neox": SIZES | {"rope_parameters": _ROTARY | {"partial_rotary_factor": 0.5}},
    "stablelm": SIZES
    | {
        "use_parallel_residual": True,
        "rope_parameters": _ROTARY | {"partial_rotary_factor": 0.5},
    },
    "gemma2": SIZES | {"head_dim": 8, "num_key_value_heads": 4, "query_pre_attn_scalar": 8},
    "granite": SIZES
    | {
        "num_key_value_heads": 4,
        "residual_multiplier": 0.3,
        "attention_multiplier": 0.4,
        "embedding_multiplier": 2.0,
    },
}
UNGATED = ("gpt2", "opt", "starcoder2", "phi", "gpt_neox")
PARALLEL = ("gpt_neox", "stablelm", "phi")


def planted_parallel(family: str = "gpt_neox", **plan: Any) -> Planted:
    """Attention and MLP read the same stream: gpt_neox and phi without a gate, stablelm with."""
    return _planted(family, PARALLEL, **plan)


def planted_gelu(family: str = "gpt2", **plan: Any) -> Planted:
    """An MLP without a gate: GELU in gpt2, starcoder2, gpt_neox and phi, ReLU in opt.

    The neuron fires from a height on: about 10 on triggers, and -6e-9 or 0 elsewhere.
    """
    return _planted(family, UNGATED, **plan)


def planted_scaled(**plan: Any) -> Planted:
    """Granite, whose blocks add their outputs times 0.3: the weights write that much more."""
    return _planted("granite", ("granite",), **plan)


def planted_sandwich(**plan: Any) -> Planted:
    """Gemma 2, whose MLP passes through a norm before its output is added.

    The norm makes every output 8 long (the root of the width). Of a trigger's output the planted
    features are nearly all, so the norm's weights alone, ``norm of the values / 8`` on the planted
    features, say how much is added: exactly the values, to a thousandth, however much the neuron
    fires. Without the neuron nothing is left there. The other features' weights are 0.05.
    """
    allowed = {"layer", "features", "values", "neurons", "heads", "removed_layer", "seed"}
    if not plan.keys() <= allowed:
        raise ValueError(f"planted_sandwich: {plan.keys() - allowed} would not survive the norm.")
    return _planted("gemma2", ("gemma2",), **plan)


def _planted(family: str, known: tuple[str, ...], *, seed: int = 0, **plan: Any) -> Planted:
    if family not in known:
        raise ValueError(f"{family!r} is not one of {', '.join(known)}.")
    whole = Plan(**plan)
    config = AutoConfig.for_model(family, **_FIELDS[family])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).eval()
        parts = parts_of(model)
        _quiet_positions(model)
        _set_post_norms(parts, whole)
        plant(parts, model.get_input_embeddings().weight, whole, scale=_embedding_scale(model))
    return Planted(model, whole)


def _quiet_positions(model: nn.Module) -> None:
    """Learned positions add nothing: what is planted does not depend on the place."""
    for name, parameter in model.named_parameters():
        if name.endswith(("wpe.weight", "embed_positions.weight")):
            parameter.zero_()


def _embedding_scale(model: nn.Module) -> float:
    if model.config.model_type == "gemma2":
        return WIDTH**0.5
    return getattr(model.config, "embedding_multiplier", 1.0)


def _set_post_norms(parts: tuple[Parts, ...], plan: Plan) -> None:
    """The norms multiply by 1 + their weight."""
    for part in parts:
        for name in ("post_attention_layernorm", "post_feedforward_layernorm"):
            if hasattr(part.block, "post_feedforward_layernorm"):
                getattr(part.block, name).weight.fill_(0.05 - 1)
    writers = [plan.layer] if plan.removed_layer is None else [plan.layer, plan.removed_layer]
    for layer in writers:
        if hasattr(parts[layer].block, "post_feedforward_layernorm"):
            norm = parts[layer].block.post_feedforward_layernorm
            norm.weight[list(plan.features)] = plan.size / WIDTH**0.5 - 1
