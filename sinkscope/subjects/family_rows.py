"""The rows of the table of model families. Plain data, no torch; `families` looks them up."""

from dataclasses import replace

from sinkscope.subjects.family import Experts, Family

__all__ = ["ROWS"]

_CAUSAL = {"is_causal": True, "is_encoder_decoder": False, "add_cross_attention": False}
_GEMMA = _CAUSAL | {"use_bidirectional_attention": False}

_LLAMA = Family("llama", requires=_CAUSAL, builtin=True)
_EXPERTS = ("mixtral", "qwen2_moe", "qwen3_moe", "qwen3_omni_moe_text", "qwen3_vl_moe_text")
_LIKE_LLAMA = (
    *("mistral", "qwen2", "qwen3", "olmo", "smollm3", "voxtral_realtime_text"),
    *("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "qwen2_5_omni_text"),
)
_GEMMA2 = replace(
    _LLAMA,
    model_type="gemma2",
    attn_out="post_attention_layernorm",
    resid_mid="pre_feedforward_layernorm",
    mlp_out="post_feedforward_layernorm",
    requires=_GEMMA,
)
_OLMO2 = replace(_GEMMA2, model_type="olmo2", resid_mid="mlp", requires=_CAUSAL)
_GLM = replace(_LLAMA, model_type="glm", gate="mlp.gate_up_proj", up="mlp.gate_up_proj")
_PHI3 = replace(_GLM, model_type="phi3", attn_out="resid_attn_dropout", mlp_out="resid_mlp_dropout")
_UNGATED = replace(_LLAMA, gate=None, up=None)
_GEMMA4 = replace(
    _GEMMA2,
    model_type="gemma4_text",
    requires=_CAUSAL | {"use_bidirectional_attention": (False, "vision")},
    also="adds per-layer embeddings where it has them, and multiplies the stream by layer_scalar",
    experts=Experts("router", "experts", probabilities="given", adds=False),
)

_QWEN_HYBRID = replace(_LLAMA, model_type="qwen3_5_text", mixer="linear_attn")
_BAMBA = replace(
    _LLAMA,
    model_type="bamba",
    resid_mid="pre_ff_layernorm",
    mlp_out="feed_forward",
    gate="feed_forward.gate_proj",
    up="feed_forward.up_proj",
    down="feed_forward.down_proj",
    mixer="mamba",
)
_HYBRIDS = (
    _QWEN_HYBRID,
    replace(_QWEN_HYBRID, model_type="qwen3_5_moe_text", experts=Experts()),
    replace(_QWEN_HYBRID, model_type="qwen3_next", experts=Experts()),
    _BAMBA,
    replace(
        _BAMBA,
        model_type="jamba",
        experts=Experts("feed_forward.router", "feed_forward.experts", renormalised=False),
    ),
    replace(
        _BAMBA,
        model_type="lfm2",
        resid_mid="ffn_norm",
        gate="feed_forward.w1",
        up="feed_forward.w3",
        down="feed_forward.w2",
        mixer="conv",
    ),
    replace(
        _BAMBA,
        model_type="falcon_h1",
        mixer=None,
        sites=("resid_pre", "resid_mid", "resid_post", "mlp_out"),
        also="adds what a state space makes beside what attention makes, each with a multiplier",
    ),
)
_LATENT = (
    replace(
        _LLAMA,
        model_type="deepseek_v2",
        experts=Experts(
            renormalised=False, plain={"topk_method": "greedy", "routed_scaling_factor": 1.0}
        ),
    ),
    replace(_LLAMA, model_type="deepseek_v3", experts=Experts(probabilities="")),
)

ROWS = (
    _LLAMA,
    *_HYBRIDS,
    *_LATENT,
    *(replace(_LLAMA, model_type=name) for name in _LIKE_LLAMA),
    *(replace(_LLAMA, model_type=name, experts=Experts()) for name in _EXPERTS),
    replace(_LLAMA, model_type="gpt_oss", experts=Experts(router="mlp.router")),
    replace(_LLAMA, model_type="gemma", requires=_GEMMA),
    _GEMMA2,
    replace(_GEMMA2, model_type="gemma3_text"),
    replace(
        _GEMMA2,
        model_type="gemma3n_text",
        active="altup_active_idx",
        sites=("resid_pre", "resid_post", "mlp_up", "mlp_act"),
        also="corrects four streams (AltUp) by what attention, laurel and MLP made of one of them",
    ),
    _GEMMA4,
    replace(_GEMMA4, model_type="gemma4_unified_text"),
    _OLMO2,
    replace(_OLMO2, model_type="olmo3"),
    replace(_OLMO2, model_type="exaone4"),
    replace(_LLAMA, model_type="granite", multiplier="residual_multiplier"),
    _GLM,
    replace(
        _GLM, model_type="glm4", attn_out="post_self_attn_layernorm", mlp_out="post_mlp_layernorm"
    ),
    _PHI3,
    replace(_PHI3, model_type="phi4_multimodal"),
    replace(
        _UNGATED,
        model_type="gpt2",
        blocks="transformer.h",
        attention="attn",
        attn_out="attn",
        resid_mid="ln_2",
        down="mlp.c_proj",
        requires=_CAUSAL | {"reorder_and_upcast_attn": False},
    ),
    replace(
        _UNGATED,
        model_type="gpt_neox",
        blocks="gpt_neox.layers",
        attention="attention",
        attn_out="post_attention_dropout",
        mlp_out="post_mlp_dropout",
        down="mlp.dense_4h_to_h",
        parallel="use_parallel_residual",
    ),
    replace(
        _UNGATED,
        model_type="opt",
        blocks="model.decoder.layers",
        resid_mid="final_layer_norm",
        mlp_out="fc2",
        down="fc2",
        flat=("final_layer_norm", "fc2"),
        requires=_CAUSAL | {"do_layer_norm_before": True},
    ),
    replace(_UNGATED, model_type="phi", down="mlp.fc2", parallel=True),
    replace(_UNGATED, model_type="starcoder2", down="mlp.c_proj"),
    replace(_LLAMA, model_type="stablelm", parallel="use_parallel_residual"),
    replace(_LLAMA, model_type="cohere", parallel=True),
    replace(_LLAMA, model_type="cohere2", parallel=True),
)
