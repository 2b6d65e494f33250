"""Mixtures of experts: against loops over tokens and experts, beside every family, counted."""

import copy
import re
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sinkscope.avsr.mome import (
    Mome,
    MomeSettings,
    balance_loss,
    count_experts,
    hold_routing,
    mixtures,
)
from sinkscope.errors import InputError
from sinkscope.subjects.mome import attach_mome
from tests.families import FAMILIES, MORE_FAMILIES, build
from tests.slow_experts import one_by_one

IDS = torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(1))
SMALL = MomeSettings(routed=6, top_k=2, shared=1, bottleneck=3)
VARIANTS = {
    "default": SMALL,
    "paper": MomeSettings(),
    "one unit": replace(SMALL, bottleneck=1),
    "all chosen": replace(SMALL, top_k=6),
    "no shared": replace(SMALL, shared=0),
    "two shared": replace(SMALL, shared=2),
    "shared only": replace(SMALL, routed=0, top_k=0),
    "one routed": replace(SMALL, routed=1, top_k=1, shared=0),
    "not renormalised": replace(SMALL, renormalise=False),
    "selected": replace(SMALL, softmax="selected"),
    "router bias": replace(SMALL, router_bias=True),
    "no biases": replace(SMALL, expert_bias=False),
    "scaled": replace(SMALL, scale=0.5),
}
PLACEMENTS = ("attention", "mlp", "layer")


def filled(settings: MomeSettings, *, hidden: int = 16) -> Mome:
    """A mixture in float64, no parameter of which is zero."""
    torch.manual_seed(0)
    mixture = Mome(hidden, settings).double()
    for parameter in mixture.parameters():
        torch.nn.init.normal_(parameter)
    return mixture


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_loops_over_tokens_and_experts(name: str) -> None:
    mixture = filled(VARIANTS[name])
    inputs = [torch.randn(9, 16, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    weights = torch.randn(9, 16, dtype=torch.float64)
    wanted = [*mixture.parameters(), *inputs]
    found = []
    for compute in (mixture, lambda *given: one_by_one(mixture, *given)):
        output = compute(*inputs)
        gradients = torch.autograd.grad((output * weights).sum(), wanted, allow_unused=True)
        found.append([output, *(torch.zeros(()) if g is None else g for g in gradients)])
    for own, slow in zip(*found, strict=True):
        torch.testing.assert_close(own, slow.expand_as(own).to(own), rtol=1e-9, atol=1e-9)


def test_equals_loops_in_single_precision() -> None:
    mixture = filled(SMALL).float()
    states = torch.randn(50, 16)
    torch.testing.assert_close(
        mixture(states, states) / 100, one_by_one(mixture, states, states) / 100, rtol=0, atol=1e-6
    )


def test_experts_that_nobody_chose_have_no_gradient() -> None:
    mixture = filled(replace(SMALL, routed=20))
    states = torch.randn(2, 16, dtype=torch.float64)
    mixture(states, states).sum().backward()
    gates = mixture.gate(mixture.router(states)).gates
    unused = torch.cat([torch.tensor([False]), (gates == 0).all(dim=0)])
    assert mixture.down.grad is not None
    assert unused.sum() >= 16
    assert (mixture.down.grad[unused] == 0).all()
    assert (mixture.down.grad[~unused] != 0).any(dim=(1, 2)).all()


def test_two_ways_to_the_same_gates() -> None:
    logits = torch.randn(7, 6)
    ways = [filled(replace(SMALL, softmax=way)).gate(logits).gates for way in ("all", "selected")]
    torch.testing.assert_close(*ways)


def test_published_counts() -> None:
    paper = MomeSettings()
    assert count_experts(paper, hidden_size=3072, layers=28).active == 12_732_048
    config = LlamaConfig(
        hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
        num_key_value_heads=8, vocab_size=128_256, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        llm = attach_mome(LlamaForCausalLM(config), paper)
    own = {name: p.numel() for name, p in llm.named_parameters() if p.requires_grad}
    assert all(".mome." in name for name in own)
    routers = sum(count for name, count in own.items() if "router" in name)
    experts = sum(own.values()) - routers
    assert experts % 24 == 0
    assert experts // 24 * 5 + routers == 12_732_048
    assert sum(own.values()) == count_experts(paper, hidden_size=3072, layers=28).total


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_counts_are_those_of_the_module(settings: MomeSettings) -> None:
    own = sum(p.numel() for p in Mome(16, settings).parameters())
    assert count_experts(settings, hidden_size=16, layers=1).total == own


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("family", [*FAMILIES, *MORE_FAMILIES])
def test_begins_as_the_base_to_the_bit(family: str, placement: str) -> None:
    base, ids = build(family), IDS
    model = attach_mome(copy.deepcopy(base), replace(SMALL, placement=placement))
    with torch.no_grad():
        assert torch.equal(base(ids).logits, model(ids).logits)
        for _, mixture in mixtures(model):
            torch.nn.init.normal_(mixture.up, std=0.05)
        assert not torch.allclose(base(ids).logits, model(ids).logits, atol=1e-4)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("reads", ["normalised", "residual"])
def test_adds_what_the_formula_says(placement: str, reads: str) -> None:
    """One block of Llama by hand, from the block's own modules."""
    settings = replace(SMALL, placement=placement, reads=reads, router_reads=reads)
    base = build("llama")
    model = attach_mome(copy.deepcopy(base), settings)
    for _, mixture in mixtures(model):
        torch.nn.init.normal_(mixture.up, std=0.5)
    own, block = model.model.layers[0], base.model.layers[0]
    states = torch.randn(2, 5, base.config.hidden_size)
    turns = base.model.rotary_emb(states, torch.arange(5)[None])
    with torch.no_grad():
        given = block.input_layernorm(states)
        attended, _ = block.self_attn(given, position_embeddings=turns, attention_mask=None)
        first = given if reads == "normalised" else states
        middle = states + attended
        if placement == "attention":
            middle = middle + own.mome(first, first)
        normed = block.post_attention_layernorm(middle)
        second = normed if reads == "normalised" else middle
        wanted = middle + block.mlp(normed)
        if placement == "mlp":
            wanted = wanted + own.mome(second, second)
        if placement == "layer":
            wanted = wanted + own.mome(first, first)
        found = own(states, position_embeddings=turns, attention_mask=None)
    torch.testing.assert_close(found, wanted)


def test_copies_saves_and_trains_the_mixtures_alone() -> None:
    model = attach_mome(build("llama"), SMALL)
    twin = copy.deepcopy(model)
    ids = IDS
    with torch.no_grad():
        for _, mixture in mixtures(twin):
            mixture.up.add_(0.1)
        assert not torch.equal(model(ids).logits, twin(ids).logits)
    again = attach_mome(build("llama"), SMALL)
    again.load_state_dict(twin.state_dict())
    assert torch.equal(again(ids).logits, twin(ids).logits)
    twin(ids, labels=ids).loss.backward()
    assert all((p.grad is not None) == (".mome." in n) for n, p in twin.named_parameters())


def test_generation_with_a_cache_equals_one_without() -> None:
    model = attach_mome(build("llama"), replace(SMALL, up_init="normal")).eval()
    ids = IDS[:1]
    ways = [model.generate(ids, max_new_tokens=8, do_sample=False, use_cache=c) for c in (0, 1)]
    assert torch.equal(*ways)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("placement", "mhsa", "placement is 'mhsa'; give one of attention, mlp, layer"),
        ("bottleneck", 0, "bottleneck is 0; give 1 or more"),
        ("top_k", 7, "top_k is 7 of 6 routed experts; give a number from 1 to 6"),
        ("top_k", 0, "top_k is 0 of 6 routed experts"),
        ("balance_weight", -1, "balance_weight is -1; give 0 or more"),
    ],
)
def test_bad_settings(field: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        replace(SMALL, **{field: value})


def test_refusals() -> None:
    model = attach_mome(build("llama"), SMALL)
    with pytest.raises(InputError, match="has mixtures of experts already"):
        attach_mome(model, SMALL)
    with pytest.raises(InputError, match="no routed experts"), hold_routing(build("llama")):
        pass
    with pytest.raises(InputError, match="no forward was held"):
        balance_loss([], SMALL)
