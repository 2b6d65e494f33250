"""Full-size released checkpoints as names and shapes: what is inferred, and that all fits."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sinkscope.avsr.convert import Answers
from sinkscope.avsr.convert.answers import refuse_contradictions, refuse_unanswered
from sinkscope.avsr.convert.convert import config_of, our_state, refuse_faults_by_their_names
from sinkscope.avsr.convert.infer import Encoding, LlmFacts, what_is_told
from sinkscope.avsr.model import LlamaAvsr
from tests.golden_avsr import tokenizer
from tests.test_avsr_full_size import LLAMA_3B, LLAMA_8B, WHISPER_MEDIUM, _avhubert, _whisper

Shapes = dict[str, tuple[int, ...]]


def llama(h: int, kv: int, m: int, layers: int, r: int) -> Shapes:
    """The published names of a Llama 3 with five added tokens and LoRA."""
    per_layer = {
        **{f"self_attn.{x}_proj.weight": (h, h) for x in "qo"},
        **{f"self_attn.{x}_proj.weight": (kv, h) for x in "kv"},
        **{f"self_attn.lora_down_{x}.weight": (r, h) for x in "QV"},
        "self_attn.lora_up_Q.weight": (h, r),
        "self_attn.lora_up_V.weight": (kv, r),
        "mlp.gate_proj.weight": (m, h),
        "mlp.up_proj.weight": (m, h),
        "mlp.down_proj.weight": (h, m),
        "input_layernorm.weight": (h,),
        "post_attention_layernorm.weight": (h,),
    }
    shapes = {f"llm.model.layers.{i}.{k}": v for i in range(layers) for k, v in per_layer.items()}
    rows = {f"llm.{name}.weight": (128_261, h) for name in ("model.embed_tokens", "lm_head")}
    return shapes | rows | {"llm.model.norm.weight": (h,)}


def projector(stream: str, inputs: int, h: int, *, norm: bool = False) -> Shapes:
    shapes: Shapes = {
        "0.weight": (2048, inputs),
        "0.bias": (2048,),
        "2.weight": (h, 2048),
        "2.bias": (h,),
    }
    shapes |= {"3.weight": (h,), "3.bias": (h,)} if norm else {}
    return {f"{stream}_proj.{name}": shape for name, shape in shapes.items()}


def eyes(*, lora: bool) -> Shapes:
    shapes = _avhubert()
    for i in range(24 if lora else 0):
        for letter in "QV":
            block = f"video_encoder.encoder.layers.{i}.self_attn.lora"
            shapes[f"{block}_down_{letter}.weight"] = (64, 1024)
            shapes[f"{block}_up_{letter}.weight"] = (1024, 64)
    return shapes


def published(name: str) -> Shapes:
    of_8b, of_3b = llama(4096, 1024, 14_336, 32, 64), llama(3072, 1024, 8192, 28, 96)
    return {
        "asr": lambda: _whisper() | projector("audio", 3 * 1024, 4096) | of_8b,
        "vsr": lambda: eyes(lora=True) | projector("video", 3 * 1024, 4096) | of_8b,
        "avsr": lambda: (
            _whisper()
            | eyes(lora=False)
            | projector("audio", 4 * 1024, 4096)
            | projector("video", 2 * 1024, 4096)
            | of_8b
        ),
        "vsr_3b": lambda: eyes(lora=True) | projector("video", 1024, 3072, norm=True) | of_3b,
    }[name]()


def nowhere(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors without memory."""
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("name", "trained", "said"),
    [
        ("asr", 41_949_184, {"lora_alpha": 8}),
        ("vsr", 48_240_640, {"lora_alpha": 8}),
        ("avsr", 56_635_392, {"lora_alpha": 8}),
        ("vsr_3b", 42_216_448, {"lora_alpha": 4, "compression": "average", "video_rate": 2}),
    ],
)
def test_names_and_shapes_fit(tmp_path: Path, name: str, trained: int, said: dict) -> None:
    state = nowhere(published(name))
    if name == "vsr_3b":
        state["llm.lm_head.weight"] = state["llm.model.embed_tokens.weight"]
    count = sum(
        value.numel()
        for key, value in state.items()
        if "_proj" in key.partition(".")[0] or "lora_" in key
    )
    assert count == trained
    base = LLAMA_3B if name == "vsr_3b" else LLAMA_8B
    fields = base | {"vocab_size": 128_256, "model_type": "llama"}
    (tmp_path / "llm.json").write_text(json.dumps(fields))
    (tmp_path / "ears.json").write_text(json.dumps(WHISPER_MEDIUM | {"model_type": "whisper"}))
    answers = Answers(
        llm=str(tmp_path / "llm.json"),
        encoder=str(tmp_path / "ears.json"),
        video_encoder="large",
        tokenizer="given",
        **said,
    )
    told = what_is_told(state, where="released.pth")
    refuse_contradictions(told, answers)
    refuse_unanswered(told, answers)
    config = config_of(told, state, answers)
    named = our_state(state, config)
    with torch.device("meta"):
        model = LlamaAvsr(config, tokenizer())
    refuse_faults_by_their_names(model, named, where="released.pth")
    assert config.llm["vocab_size"] == 128_261
    assert config.lora is not None
    assert config.lora.reduction == (32 if name == "vsr_3b" else 64)


def test_what_is_told() -> None:
    told = what_is_told(nowhere(published("avsr")), where="released.pth")
    assert told.streams == {
        "audio": Encoding("whisper", 1024, (4,)),
        "video": Encoding("avhubert", 1024, (2,)),
    }
    assert told.llm == LlmFacts(4096, 128_261, 32, 64, 14_336, 1024)
    assert (told.projector_width, told.per_rate, told.joint) == (2048, False, False)
    told = what_is_told(nowhere(published("vsr_3b")), where="released.pth")
    assert told.streams == {"video": Encoding("avhubert", 1024, (1,), norm=True)}
    assert told.llm == LlmFacts(3072, 128_261, 28, 96, 8192, 1024)
