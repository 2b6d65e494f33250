"""Tiny random text decoders of multimodal models: classes of their own, without encoders.

``build_text`` puts a head on those that transformers offers without one, so that every suite can
ask for logits. ``TEXT_FAMILIES`` names them; a suffix after ``:`` names a variant.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tests.families import BASE, VOCABULARY, WINDOW

_HEAD = {"head_dim": 16}
_ROTARY = {"rope_type": "default", "rope_theta": 1e4}
_MROPE = {"rope_parameters": _ROTARY | {"mrope_section": [2, 1, 1]}}
_MROPE3 = {"rope_parameters": _ROTARY | {"mrope_section": [4, 2, 2], "mrope_interleaved": True}}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_GEMMA = BASE | {
    "head_dim": 16,
    "sliding_window": WINDOW,
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
_PER_LAYER = {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}
_ENCODER = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
_PHI4_AUDIO = {
    **{"hidden_size": 16, "intermediate_size": 16, "num_blocks": 1, "num_attention_heads": 2},
    **{"ext_pw_out_channel": 16, "nemo_conv_channels": 16, "nemo_final_size": 16},
}

TEXT_FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2_vl_text": BASE | _MROPE,
    "qwen2_5_vl_text": BASE | _MROPE,
    "qwen2_5_omni_text": BASE | _MROPE,
    "qwen2_5_omni_text:window": BASE
    | _MROPE
    | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3_vl_text": BASE | _HEAD | _MROPE3,
    "qwen3_vl_moe_text": BASE | _HEAD | _MROPE3 | _EXPERTS,
    "qwen3_omni_moe_text": BASE | _HEAD | _MROPE3 | _EXPERTS,
    "voxtral_realtime_text": BASE | _HEAD | {"sliding_window": WINDOW},
    "phi4_multimodal": BASE
    | {
        "audio_config": _PHI4_AUDIO,
        "vision_config": _ENCODER | {"num_attention_heads": 2, "image_size": 28, "patch_size": 14},
    },
    "gemma3n_text": _GEMMA
    | _PER_LAYER
    | {
        "num_kv_shared_layers": 2,
        "laurel_rank": 4,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
        "altup_active_idx": 0,
    },
    "gemma4_text": _GEMMA | _PER_LAYER | {"num_kv_shared_layers": 2, "global_head_dim": 24},
    "gemma4_text:experts": _GEMMA
    | {
        "hidden_size_per_layer_input": 0,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 24,
        "global_head_dim": 24,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
    },
    "gemma4_unified_text": _GEMMA | {"global_head_dim": 24},
}

_LINEAR = {
    **{"linear_num_value_heads": 4, "linear_num_key_heads": 2},
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 3},
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "num_hidden_layers": 3,
}
_MAMBA = {
    **{"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1},
    **{"mamba_chunk_size": 4, "mamba_d_conv": 3, "mamba_expand": 2},
}
_LATENT = {
    **{"q_lora_rank": 12, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8},
    **{"v_head_dim": 6, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 24},
    **{"first_k_dense_replace": 1, "n_shared_experts": 1, "num_key_value_heads": 4},
}
HYBRIDS: dict[str, dict[str, Any]] = {
    "qwen3_next": BASE
    | _HEAD
    | _LINEAR
    | _EXPERTS
    | {"shared_expert_intermediate_size": 24, "mlp_only_layers": [0]},
    "qwen3_5_text": BASE | _HEAD | _LINEAR,
    "qwen3_5_moe_text": BASE | _HEAD | _LINEAR | _EXPERTS | {"shared_expert_intermediate_size": 24},
    "bamba": BASE | _MAMBA | {"attn_layer_indices": [1], "num_hidden_layers": 3},
    "jamba": BASE
    | {
        **{"mamba_d_state": 8, "mamba_d_conv": 3, "mamba_expand": 2, "mamba_dt_rank": 4},
        **{"attn_layer_period": 2, "attn_layer_offset": 1, "num_hidden_layers": 4},
        **{"num_experts": 4, "num_experts_per_tok": 2, "expert_layer_period": 2},
        **{"expert_layer_offset": 1},
    },
    "lfm2": BASE
    | {
        "layer_types": ["conv", "full_attention", "conv"],
        "num_hidden_layers": 3,
        "conv_L_cache": 3,
    },
    "falcon_h1": BASE
    | _MAMBA
    | {
        **{"mamba_d_ssm": 64, "attention_out_multiplier": 0.7, "ssm_out_multiplier": 0.5},
        **{"key_multiplier": 0.8, "attention_in_multiplier": 1.2, "mlp_multipliers": [0.9, 1.1]},
    },
}
LATENT: dict[str, dict[str, Any]] = {
    "deepseek_v2": BASE
    | _LATENT
    | {"n_routed_experts": 4, "num_experts_per_tok": 2, "topk_method": "greedy"},
    "deepseek_v2:groups": BASE
    | _LATENT
    | {
        **{"n_routed_experts": 4, "num_experts_per_tok": 2, "topk_method": "group_limited_greedy"},
        **{"n_group": 2, "topk_group": 1, "routed_scaling_factor": 2.0, "q_lora_rank": None},
    },
    "deepseek_v3": BASE | _LATENT | {"n_routed_experts": 4, "num_experts_per_tok": 2},
}
_EVERY = TEXT_FAMILIES | HYBRIDS | LATENT

_CLASSES = {
    "qwen2_5_omni_text": ("qwen2_5_omni", "Qwen2_5OmniThinkerTextModel"),
    "qwen3_omni_moe_text": ("qwen3_omni_moe", "Qwen3OmniMoeThinkerTextModel"),
    "qwen2_vl_text": ("qwen2_vl", "Qwen2VLTextModel"),
    "qwen2_5_vl_text": ("qwen2_5_vl", "Qwen2_5_VLTextModel"),
    "qwen3_vl_text": ("qwen3_vl", "Qwen3VLTextModel"),
    "qwen3_vl_moe_text": ("qwen3_vl_moe", "Qwen3VLMoeTextModel"),
    "voxtral_realtime_text": ("voxtral_realtime", "VoxtralRealtimeTextModel"),
}
_CONDITIONED = ("voxtral_realtime_text",)


class WithHead(nn.Module):
    """A bare text decoder with a head; what it is conditioned on is a buffer."""

    def __init__(self, decoder: Any, *, conditioned: bool = False) -> None:
        super().__init__()
        self.model = decoder
        self.lm_head = nn.Linear(decoder.config.hidden_size, VOCABULARY, bias=False)
        self.condition = nn.Buffer(torch.ones(decoder.config.hidden_size) * conditioned)
        self.conditioned = conditioned

    @property
    def config(self) -> Any:
        return self.model.config

    def set_attn_implementation(self, name: str) -> None:
        self.model.set_attn_implementation(name)

    def forward(self, input_ids: Tensor | None = None, **kwargs: Any) -> Any:
        extra = {"t_cond": self.condition} if self.conditioned else {}
        out = self.model(input_ids=input_ids, **kwargs, **extra)
        return SimpleNamespace(
            logits=self.lm_head(out.last_hidden_state),
            hidden_states=out.hidden_states,
            past_key_values=out.past_key_values,
        )


def text_model_type(name: str) -> str:
    """The ``model_type`` of a family or of a variant of one."""
    return name.partition(":")[0]


def text_config(name: str, **changes: Any) -> Any:
    """A tiny configuration; ``changes`` are fields of it."""
    import transformers

    kind = text_model_type(name)
    fields = _EVERY[name] | changes
    if kind not in _CLASSES:
        return transformers.AutoConfig.for_model(kind, **fields)
    return _class(kind).config_class(**fields)


def build_text(name: str, *, seed: int = 0, scale: float = 0.3, **changes: Any) -> nn.Module:
    """A fresh random text decoder with a head, in evaluation mode; norms and scalars random too."""
    from transformers import AutoModelForCausalLM

    config, kind = text_config(name, **changes), text_model_type(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind in _CLASSES:
            model: nn.Module = WithHead(_class(kind)(config), conditioned=kind in _CONDITIONED)
        else:
            model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn_like(parameter) * scale
                parameter.copy_(parameter + noise if parameter.ndim == 1 else noise)
            for buffer_name, buffer in model.named_buffers():
                if buffer_name.endswith("layer_scalar"):
                    buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model.eval()


def _class(kind: str) -> Any:
    import importlib

    package, name = _CLASSES[kind]
    module = importlib.import_module(f"transformers.models.{package}.modeling_{package}")
    return getattr(module, name)
