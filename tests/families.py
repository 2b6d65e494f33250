"""Tiny random models of every family, from configuration: 2 to 4 layers, no download.

``FAMILIES`` are the names that every suite must pass, ``MORE_FAMILIES`` the other rows of the
anatomy table. Names with a suffix are variants (``gpt_neox_sequential``).
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY = 97
WINDOW = 5

BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_HEAD = {"head_dim": 16}
_EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
_SMALL_EXPERTS = _EXPERTS | {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 24}
_NEOX = BASE | {"num_key_value_heads": None, "rotary_pct": 0.5}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "llama": BASE,
    "mistral": BASE | _HEAD | {"sliding_window": WINDOW},
    "qwen2": BASE,
    "qwen3": BASE | _HEAD,
    "gemma2": BASE
    | _HEAD
    | {
        "sliding_window": WINDOW,
        "attn_logit_softcapping": 2.0,
        "query_pre_attn_scalar": 8,
        "num_hidden_layers": 3,
    },
    "gemma3_text": BASE | _HEAD | {"sliding_window": WINDOW, "num_hidden_layers": 3},
    "phi3": BASE | {"partial_rotary_factor": 0.5},
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "gpt_neox": _NEOX,
    "gpt_neox_sequential": _NEOX | {"use_parallel_residual": False},
    "opt": {
        **BASE,
        "ffn_dim": 48,
        "word_embed_proj_dim": 32,
        "num_key_value_heads": None,
        "dropout": 0.0,
    },
    "gpt_oss": BASE | _HEAD | _EXPERTS | {"sliding_window": WINDOW},
    "gemma": BASE | _HEAD,
    "mixtral": BASE | _EXPERTS,
    "qwen2_moe": BASE | _SMALL_EXPERTS,
    "qwen3_moe": BASE | _HEAD | _SMALL_EXPERTS | {"mlp_only_layers": [0]},
    "olmo": BASE,
    "olmo2": BASE,
    "olmo3": BASE | {"sliding_window": WINDOW, "num_hidden_layers": 4},
    "exaone4": BASE | {"sliding_window": WINDOW, "num_hidden_layers": 4},
    "smollm3": BASE,
    "granite": BASE | {"residual_multiplier": 0.3, "attention_multiplier": 0.2},
    "glm": BASE | _HEAD,
    "glm4": BASE | _HEAD,
    "phi": BASE | {"num_key_value_heads": 4},
    "starcoder2": BASE | {"sliding_window": WINDOW, "norm_epsilon": 1e-5},
    "stablelm": BASE,
    "stablelm_parallel": BASE | {"use_parallel_residual": True},
    "cohere": BASE,
    "cohere2": BASE | {"sliding_window": WINDOW, "num_hidden_layers": 4},
}

FAMILIES = tuple(CONFIGURATIONS)[: tuple(CONFIGURATIONS).index("gpt_oss") + 1]
MORE_FAMILIES = tuple(name for name in CONFIGURATIONS if name not in FAMILIES)
SLIDING = ("mistral", "gemma2", "gemma3_text", "gpt_oss")
PADDINGS = ("none", "all ones", "left", "right")


def model_type(name: str) -> str:
    """The ``model_type`` of a family or of a variant of one."""
    return name.removesuffix("_sequential").removesuffix("_parallel")


def config_of(name: str, **changes: Any) -> Any:
    """A tiny configuration; ``changes`` are fields of it."""
    from transformers import AutoConfig

    fields = {key: value for key, value in CONFIGURATIONS[name].items() if value is not None}
    return AutoConfig.for_model(model_type(name), **(fields | changes))


def build(name: str, *, seed: int = 0, scale: float = 0.3, **changes: Any) -> nn.Module:
    """A fresh random model in evaluation mode, with weights large enough to matter.

    Norms and biases are random too, so that a site that is read on the wrong side of one shows.
    """
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config_of(name, **changes)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn_like(parameter) * scale
                parameter.copy_(parameter + noise if parameter.ndim == 1 else noise)
    return model


@cache
def tiny(name: str) -> nn.Module:
    """The shared random model of a family; treat it as read-only."""
    return build(name)


def batch(
    padding: str = "none", *, samples: int = 3, tokens: int = 12, seed: int = 0
) -> dict[str, Tensor]:
    """Input of a forward: ``input_ids`` and, but for ``"none"``, an ``attention_mask``.

    With padding the samples are ``tokens``, ``tokens - 3``, ``tokens - 6`` ... long.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (samples, tokens), generator=generator)
    if padding == "none":
        return {"input_ids": ids}
    mask = torch.ones_like(ids)
    for sample in range(samples if padding in ("left", "right") else 0):
        missing = 3 * sample
        mask[sample, : missing if padding == "left" else 0] = 0
        mask[sample, tokens - missing if padding == "right" else tokens :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}
