"""LoRA in the reduction-factor convention, against the formula written out by hand."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sinkscope.avsr.config import LoraSettings
from sinkscope.avsr.lora import attach_lora, lora_rank, merge_lora
from sinkscope.errors import InputError

SETTINGS = LoraSettings(reduction=8, alpha=4)


def a_llama(kv_heads: int = 2) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=13,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
    )
    return LlamaForCausalLM(config).eval()


IDS = torch.tensor([[1, 5, 7, 2, 9]])


def logits(llm: LlamaForCausalLM) -> torch.Tensor:
    with torch.no_grad():
        return llm(input_ids=IDS).logits


def stir(llm: LlamaForCausalLM) -> None:
    """Moves every down matrix away from zero."""
    torch.manual_seed(1)
    for name, parameter in llm.named_parameters():
        if "lora_A" in name:
            torch.nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attaching_changes_nothing_and_trains_only_q_and_v(kv_heads: int) -> None:
    llm = a_llama(kv_heads)
    before = logits(llm)
    attach_lora(llm, SETTINGS)
    assert torch.equal(logits(llm), before)
    trained = {name for name, value in llm.named_parameters() if value.requires_grad}
    assert len(trained) == 2 * 2 * 2  # layers, projections, matrices
    assert {name.split(".")[4] for name in trained} == {"q_proj", "v_proj"}
    ups = [value for name, value in llm.named_parameters() if "lora_B" in name]
    assert all(value.abs().sum() > 0 for value in ups)


def test_the_update_is_alpha_over_reduction() -> None:
    llm = attach_lora(a_llama(), SETTINGS)
    stir(llm)
    branch = llm.model.layers[0].self_attn.q_proj
    x = torch.randn(3, 32)
    down, up = branch.lora_A["default"].weight, branch.lora_B["default"].weight
    assert down.shape == (4, 32)  # 32 / 8
    expected = x @ branch.base_layer.weight.T + 0.5 * x @ down.T @ up.T
    torch.testing.assert_close(branch(x), expected)


def test_value_branch_has_the_width_of_the_key_value_heads() -> None:
    llm = attach_lora(a_llama(kv_heads=1), SETTINGS)
    assert llm.model.layers[1].self_attn.v_proj.lora_B["default"].weight.shape == (8, 4)


def test_merging_keeps_the_outputs_and_leaves_no_branch() -> None:
    llm = a_llama()
    plain = logits(llm)
    attach_lora(llm, SETTINGS)
    stir(llm)
    with_branches = logits(llm)
    assert not torch.allclose(with_branches, plain, atol=1e-3)
    merge_lora(llm)
    torch.testing.assert_close(logits(llm), with_branches, atol=1e-5, rtol=1e-5)
    assert not [name for name, _ in llm.named_parameters() if "lora" in name]


def test_twice_and_impossible_factors_are_refused() -> None:
    llm = attach_lora(a_llama(), SETTINGS)
    with pytest.raises(InputError, match="already"):
        attach_lora(llm, SETTINGS)
    for reduction in (0, -4, 65):
        with pytest.raises(InputError, match="no rank"):
            lora_rank(32, reduction=reduction)
