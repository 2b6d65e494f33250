"""The LLM with its LoRA branches against the authors' own numbers, and PEFT adapters."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sinkscope.avsr.config import LoraSettings
from sinkscope.avsr.llm import build_llm
from sinkscope.avsr.lora import attach_lora
from sinkscope.avsr.lora_files import export_adapter, read_adapter
from sinkscope.avsr.lora_names import peft_name, published_name
from sinkscope.errors import CheckpointError
from tests.shared_data import shared

SET = "golden/C_llama_lora_small"
TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}


def plain_llm(attention: str = "sdpa"):
    told = json.loads((shared(SET) / "config.json").read_text())
    llm = build_llm(told["llama_config"]).eval()
    llm.set_attn_implementation(attention)
    return llm, LoraSettings(told["lora_config"]["RANK"], told["lora_config"]["ALPHA"])


def golden_llm(attention: str = "sdpa"):
    llm, settings = plain_llm(attention)
    attach_lora(llm, settings)
    state = load_file(shared(SET) / "weights.safetensors")
    llm.load_state_dict({peft_name(name): value for name, value in state.items()})
    return llm


def expected() -> dict[str, Tensor]:
    return load_file(shared(SET) / "outputs.safetensors")


def given() -> dict[str, Tensor]:
    stored = np.load(shared(SET) / "inputs.npz")
    return {name: torch.from_numpy(stored[name]) for name in stored.files}


@torch.no_grad()
def test_golden_outputs() -> None:
    llm, wanted, inputs = golden_llm("eager"), expected(), given()
    inside: dict[str, Tensor] = {}
    for number, block in enumerate(llm.model.layers):
        for name, module in (("self_attn", block.self_attn), ("mlp", block.mlp)):
            module.register_forward_hook(
                lambda _, __, out, key=f"{name}_out.{number}": inside.update(
                    {key: out[0] if isinstance(out, tuple) else out}
                )
            )
    output = llm(
        inputs_embeds=inputs["inputs_embeds"],
        labels=inputs["labels"],
        output_hidden_states=True,
        output_attentions=True,
        use_cache=False,
    )
    found = {"logits": output.logits, **inside}
    found |= {f"hidden_states.{i}": state for i, state in enumerate(output.hidden_states)}
    found |= {f"attentions.{i}": pattern for i, pattern in enumerate(output.attentions)}
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], **TOLERANCE)
    torch.testing.assert_close(output.loss, wanted["loss"], atol=2e-5, rtol=0)
    assert len(found) == 1 + 4 + 4 + 5 + 4


@torch.no_grad()
def test_golden_ids_and_padding() -> None:
    llm, wanted, inputs = golden_llm(), expected(), given()
    by_ids = llm(input_ids=inputs["input_ids"], use_cache=False).logits
    torch.testing.assert_close(by_ids, wanted["ids/logits"], **TOLERANCE)
    mask = inputs["attention_mask"]
    padded = llm(inputs_embeds=inputs["inputs_embeds"], attention_mask=mask, use_cache=False)
    real = mask.bool()
    torch.testing.assert_close(
        padded.logits[real], wanted["right_padded/logits"][real], **TOLERANCE
    )


@pytest.mark.parametrize("fault", ["scale", "swapped", "dropped"])
@torch.no_grad()
def test_a_wrong_branch_would_be_seen(fault: str) -> None:
    llm, settings = plain_llm()
    if fault == "scale":
        settings = LoraSettings(settings.reduction, settings.alpha * 2)
    attach_lora(llm, settings)
    state = load_file(shared(SET) / "weights.safetensors")
    if fault == "swapped":
        state = {k.replace("down_Q", "x").replace("down_V", "down_Q").replace("x", "down_V"): v
                 for k, v in state.items()}  # fmt: skip
    if fault == "dropped":
        state = {k: v * ("lora_up_V" not in k) for k, v in state.items()}
    llm.load_state_dict({peft_name(name): value for name, value in state.items()})
    logits = llm(inputs_embeds=given()["inputs_embeds"], use_cache=False).logits
    assert (logits - expected()["logits"]).abs().max() > 1e-2


def test_names_go_both_ways() -> None:
    state = load_file(shared(SET) / "weights.safetensors")
    assert [published_name(peft_name(name)) for name in state] == list(state)
    assert {peft_name(name) for name in state} == set(golden_llm().state_dict())


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
def test_an_adapter_gives_equal_outputs(tmp_path: Path) -> None:
    from peft import PeftModel

    llm, inputs = golden_llm(), given()["inputs_embeds"]
    wanted = llm(inputs_embeds=inputs, use_cache=False).logits
    export_adapter(llm, tmp_path / "adapter", base_model="base")
    base = {
        name.replace(".base_layer.", "."): value
        for name, value in llm.state_dict().items()
        if ".lora_" not in name
    }
    ours, settings = plain_llm()
    ours.load_state_dict(base)
    assert read_adapter(ours, tmp_path / "adapter") == settings
    assert torch.equal(ours(inputs_embeds=inputs, use_cache=False).logits, wanted)
    theirs, _ = plain_llm()
    theirs.load_state_dict(base)
    theirs = PeftModel.from_pretrained(theirs, str(tmp_path / "adapter")).eval()
    assert torch.equal(theirs(inputs_embeds=inputs, use_cache=False).logits, wanted)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
def test_other_adapters_are_refused(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    llm, _ = plain_llm()
    with pytest.raises(CheckpointError, match=r"holds no adapter_config\.json"):
        read_adapter(llm, tmp_path)
    other = get_peft_model(plain_llm()[0], LoraConfig(r=2, target_modules=["k_proj"]))
    other.save_pretrained(str(tmp_path / "other"))
    with pytest.raises(CheckpointError, match="only plain LoRA on q_proj and v_proj"):
        read_adapter(llm, tmp_path / "other")


@pytest.mark.parametrize("kv_heads", [1, 2, 8])
def test_any_number_of_key_value_heads(kv_heads: int) -> None:
    fields = json.loads((shared(SET) / "config.json").read_text())["llama_config"]
    llm = build_llm(fields | {"num_key_value_heads": kv_heads})
    attach_lora(llm, LoraSettings(16, 8))
    up = llm.get_submodule("model.layers.0.self_attn.v_proj.lora_B.default").weight
    assert up.shape == (8 * kv_heads, 4)
