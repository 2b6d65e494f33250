"""A full-size Llama-AVSR on the meta device: published names, shapes and counts."""

import json

import pytest
import torch

from sinkscope.avsr.config import AvsrConfig, EncoderConfig, LoraSettings
from sinkscope.avsr.lora_names import published_name
from sinkscope.avsr.model import LlamaAvsr
from tests.golden_avsr import tokenizer
from tests.shared_data import shared

LLAMA_8B = {
    "vocab_size": 128_261,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
LLAMA_3B = LLAMA_8B | {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
WHISPER_MEDIUM = {
    "d_model": 1024,
    "encoder_layers": 24,
    "encoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "num_mel_bins": 80,
    "pad_token_id": 0,
}
EARS = EncoderConfig("whisper", {"whisper": WHISPER_MEDIUM})
EYES = EncoderConfig("avhubert-video", {})
ADAPTED_EYES = EncoderConfig("avhubert-video", {"lora_rank": 64})


def build(llm: dict, **settings) -> LlamaAvsr:
    with torch.device("meta"):
        return LlamaAvsr(AvsrConfig(llm, projector_width=2048, **settings), tokenizer())


def trained(model: LlamaAvsr) -> int:
    """What the published training changes: projectors and LoRA branches."""
    return sum(
        value.numel()
        for name, value in model.named_parameters()
        if "_projector." in name or "lora_" in name
    )


@pytest.mark.parametrize(
    ("llm", "settings", "count"),
    [
        (LLAMA_8B, {"audio_encoder": EARS, "audio_rates": (3,), "compression": "stack",
                    "lora": LoraSettings(64, 8)}, 41_949_184),
        (LLAMA_8B, {"video_encoder": ADAPTED_EYES, "video_rates": (3,), "compression": "stack",
                    "lora": LoraSettings(64, 8)}, 48_240_640),
        (LLAMA_8B, {"audio_encoder": EARS, "video_encoder": EYES, "compression": "stack",
                    "lora": LoraSettings(64, 8)}, 56_635_392),
        (LLAMA_3B, {"video_encoder": ADAPTED_EYES, "projector_norm": True,
                    "lora": LoraSettings(32, 4)}, 42_216_448),
    ],
)  # fmt: skip
def test_trained_parameters(llm: dict, settings: dict, count: int) -> None:
    assert trained(build(llm, **settings)) == count


def test_published_names_and_shapes() -> None:
    """Every name and shape of a released audio-visual checkpoint, written down by rule."""
    wanted = _whisper() | _avhubert() | _projector("audio", 4) | _projector("video", 2) | _llama()
    model = build(
        LLAMA_8B,
        audio_encoder=EARS,
        video_encoder=EYES,
        compression="stack",
        lora=LoraSettings(64, 8),
    )
    own = {_published(name): tuple(value.shape) for name, value in model.state_dict().items()}
    assert own.keys() == wanted.keys()
    assert own == wanted


def _published(name: str) -> str:
    part, _, rest = name.partition(".")
    if part == "llm":
        return f"llm.{published_name(rest)}"
    if part.endswith("_projector"):
        return f"{part.removesuffix('ector')}.{rest}"
    return f"{part}.{rest.removeprefix('model.')}"


def _whisper() -> dict[str, tuple[int, ...]]:
    d = 1024
    shapes = {
        "conv1.weight": (d, 80, 3),
        "conv1.bias": (d,),
        "conv2.weight": (d, d, 3),
        "conv2.bias": (d,),
        "embed_positions.weight": (1500, d),
        "layer_norm.weight": (d,),
        "layer_norm.bias": (d,),
    }
    for i in range(24):
        for letter in ("q", "k", "v", "out"):
            shapes[f"layers.{i}.self_attn.{letter}_proj.weight"] = (d, d)
            if letter != "k":
                shapes[f"layers.{i}.self_attn.{letter}_proj.bias"] = (d,)
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"layers.{i}.{norm}.{kind}": (d,) for kind in ("weight", "bias")}
        shapes[f"layers.{i}.fc1.weight"] = (4 * d, d)
        shapes[f"layers.{i}.fc1.bias"] = (4 * d,)
        shapes[f"layers.{i}.fc2.weight"] = (d, 4 * d)
        shapes[f"layers.{i}.fc2.bias"] = (d,)
    return {f"audio_encoder.{name}": shape for name, shape in shapes.items()}


def _avhubert() -> dict[str, tuple[int, ...]]:
    listed = json.loads(shared("golden/avhubert_large_keys.json").read_text())["keys"]
    aside = ("mask_emb", "label_embs_concat", "final_proj")
    return {
        f"video_encoder.{name}": tuple(shape)
        for name, shape, _ in listed
        if not name.startswith(aside)
    }


def _projector(stream: str, rate: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{stream}_proj.0.weight": (2048, 1024 * rate),
        f"{stream}_proj.0.bias": (2048,),
        f"{stream}_proj.2.weight": (4096, 2048),
        f"{stream}_proj.2.bias": (4096,),
    }


def _llama() -> dict[str, tuple[int, ...]]:
    h, r, kv, m = 4096, 64, 1024, 14_336
    shapes = {
        "model.embed_tokens.weight": (128_261, h),
        "model.norm.weight": (h,),
        "lm_head.weight": (128_261, h),
    }
    for i in range(32):
        own = {
            "self_attn.q_proj.weight": (h, h),
            "self_attn.k_proj.weight": (kv, h),
            "self_attn.v_proj.weight": (kv, h),
            "self_attn.o_proj.weight": (h, h),
            "self_attn.lora_down_Q.weight": (r, h),
            "self_attn.lora_down_V.weight": (r, h),
            "self_attn.lora_up_Q.weight": (h, r),
            "self_attn.lora_up_V.weight": (kv, r),
            "mlp.gate_proj.weight": (m, h),
            "mlp.up_proj.weight": (m, h),
            "mlp.down_proj.weight": (h, m),
            "input_layernorm.weight": (h,),
            "post_attention_layernorm.weight": (h,),
        }
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in own.items()}
    return {f"llm.{name}": shape for name, shape in shapes.items()}
