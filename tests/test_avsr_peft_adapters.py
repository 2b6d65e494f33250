"""LoRA branches as PEFT adapters: in and out, for any number of key-value heads, and refusals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from sinkscope.avsr.config import AvsrConfig, EncoderConfig, LoraSettings
from sinkscope.avsr.llm import build_llm
from sinkscope.avsr.lora import attach_lora, merge_lora
from sinkscope.avsr.lora_files import export_adapter, read_adapter
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.mome import MomeSettings, add_mixtures
from sinkscope.avsr.tokens import word_tokenizer
from sinkscope.errors import CheckpointError, InputError

IDS = torch.tensor([[1, 5, 7, 2, 9]])
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"  # peft's own
)


def fields(**changes: Any) -> dict[str, Any]:
    sizes = {
        "vocab_size": 40,
        "hidden_size": 48,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return sizes | changes


def an_llm(**changes: Any) -> Any:
    torch.manual_seed(0)
    return build_llm(fields(**changes)).eval()


def stirred(llm: Any, seed: int = 1) -> Any:
    torch.manual_seed(seed)
    for name, value in llm.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(value, std=0.3)
    return llm


def logits(llm: Any) -> torch.Tensor:
    with torch.no_grad():
        return llm(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"num_key_value_heads": 4}, LoraSettings(8, 4)),
        ({"num_key_value_heads": 1}, LoraSettings(5, 3)),  # rank round(9.6), a scale of 0.6
        ({"model_type": "qwen2"}, LoraSettings(16, 8)),
    ],
)
def test_out_and_in_again(tmp_path: Path, changes: dict, settings: LoraSettings) -> None:
    llm = stirred(attach_lora(an_llm(**changes), settings))
    export_adapter(llm, tmp_path, base_model="base")
    again = an_llm(**changes)
    plain = logits(again)
    found = read_adapter(again, tmp_path)
    assert round(48 / found.reduction) == round(48 / settings.reduction)
    torch.testing.assert_close(logits(again), logits(llm), atol=1e-6, rtol=1e-6)
    assert (logits(again) - plain).abs().max() > 1e-2
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["r"] == round(48 / settings.reduction)
    assert written["lora_alpha"] / written["r"] == pytest.approx(
        settings.alpha / settings.reduction
    )
    assert set(written["target_modules"]) == {"q_proj", "v_proj"}
    assert written["base_model_name_or_path"] == "base"


def test_an_adapter_that_peft_trained_is_read(tmp_path: Path) -> None:
    config = LoraConfig(r=6, lora_alpha=9, target_modules=["v_proj", "q_proj"])
    theirs = stirred(get_peft_model(an_llm(), config)).eval()
    theirs.save_pretrained(str(tmp_path))
    ours = an_llm()
    settings = read_adapter(ours, tmp_path)
    assert settings == LoraSettings(reduction=8, alpha=12)
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-6, rtol=1e-6)


def test_a_whole_model_keeps_what_was_read(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(["bin"])
    config = AvsrConfig(
        llm=fields(vocab_size=len(tokenizer)),
        audio_encoder=EncoderConfig("tiny-audio", {"width": 16, "depth": 1}),
        projector_width=16,
    )
    donor = stirred(attach_lora(an_llm(vocab_size=len(tokenizer)), LoraSettings(8, 4)))
    export_adapter(donor, tmp_path / "adapter")
    model = LlamaAvsr(config, tokenizer)
    settings = read_adapter(model.llm, tmp_path / "adapter")
    model.config = replace(model.config, lora=settings)
    model.save_pretrained(tmp_path / "model")
    again = LlamaAvsr.from_pretrained(tmp_path / "model")
    assert again.config.lora == settings
    assert torch.equal(logits(again.llm), logits(model.llm))


def test_misfits_are_listed_and_leave_the_llm_as_it_was(tmp_path: Path) -> None:
    export_adapter(stirred(attach_lora(an_llm(), LoraSettings(8, 4))), tmp_path)
    other = an_llm(num_key_value_heads=4, num_hidden_layers=3)
    before = set(other.state_dict())
    with pytest.raises(CheckpointError) as caught:
        read_adapter(other, tmp_path)
    assert "missing model.layers.2.self_attn.q_proj.lora_A.default.weight" in str(caught.value)
    assert "v_proj.lora_B.default.weight is (24, 6), not (48, 6)" in str(caught.value)
    assert set(other.state_dict()) == before
    state = load_file(tmp_path / "adapter_model.safetensors")
    save_file({**state, "base_model.model.odd.weight": IDS}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"unexpected odd\.default\.weight"):
        read_adapter(an_llm(), tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"use_rslora": True}, "use_rslora = True"),
        ({"use_dora": True}, "use_dora = True"),
        ({"alpha_pattern": {"layers.0.self_attn.q_proj": 1}}, "alpha_pattern"),
        ({"target_modules": ["q_proj"]}, "is a LORA on q_proj; only plain LoRA"),
        ({"target_modules": ".*"}, "only plain LoRA"),
    ],
)
def test_other_formulas_are_refused(tmp_path: Path, change: dict, match: str) -> None:
    export_adapter(attach_lora(an_llm(), LoraSettings(8, 4)), tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=match):
        read_adapter(an_llm(), tmp_path)


def test_damage_and_branches_are_refused(tmp_path: Path) -> None:
    llm = attach_lora(an_llm(), LoraSettings(8, 4))
    export_adapter(llm, tmp_path)
    with pytest.raises(InputError, match="has LoRA branches already"):
        read_adapter(llm, tmp_path)
    with pytest.raises(InputError, match="has mixtures of experts"):
        read_adapter(add_mixtures(an_llm(), MomeSettings(routed=2, top_k=1)), tmp_path)
    merge_lora(llm)
    with pytest.raises(InputError, match="has no LoRA branches"):
        export_adapter(llm, tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_adapter(an_llm(), tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_adapter(an_llm(), tmp_path)
