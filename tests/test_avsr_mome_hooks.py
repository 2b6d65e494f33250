"""Hooks of mixtures: where they stand among others, what is held, and what a failure leaves."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sinkscope.avsr.mome import MomeSettings, balance_loss, hold_routing, mixtures
from sinkscope.errors import InputError
from sinkscope.interventions.order import ExitStack, changing
from sinkscope.subjects.mome import attach_mome
from tests.families import build

SMALL = MomeSettings(routed=6, top_k=2, shared=1, bottleneck=3, balance_weight=1.0)
IDS = torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(1))
PLACEMENTS = ("attention", "mlp", "layer")


def stirred(model: Any, settings: MomeSettings = SMALL) -> Any:
    """A model with experts that matter, and routers that differ."""
    torch.manual_seed(4)
    attach_mome(model, settings)
    for _, mixture in mixtures(model):
        nn.init.normal_(mixture.up, std=0.5)
        nn.init.normal_(mixture.router.weight)
    return model.eval()


def collected(module: nn.Module, seen: list[Tensor]) -> Any:
    """Collects what hooks of a block see."""
    return module.register_forward_hook(
        lambda _m, _a, out: seen.append(out if isinstance(out, Tensor) else out[0])
    )


def boom(*_: Any) -> None:
    raise RuntimeError("boom")


@torch.no_grad()
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("copied", [False, True])
def test_hidden_states_hold_the_mixture_whenever_it_was_attached(
    placement: str, copied: bool
) -> None:
    """Hooks that were there before the experts, transformers' and a user's, see the sum."""
    settings = replace(SMALL, placement=placement)
    fresh = stirred(build("llama"), settings)
    used = build("llama")
    used(IDS, output_hidden_states=True)
    early: list[Tensor] = []
    collected(used.model.layers[0], early)
    used = stirred(used, settings)
    model = copy.deepcopy(used) if copied else used
    late: list[Tensor] = []
    collected(model.model.layers[0], late)
    wanted = fresh(IDS, output_hidden_states=True).hidden_states
    found = model(IDS, output_hidden_states=True).hidden_states
    for own, right in zip(found, wanted, strict=True):
        assert torch.equal(own, right)
    assert torch.equal(early[-1], wanted[1])
    assert torch.equal(late[-1], wanted[1])
    bare = build("llama")(IDS, output_hidden_states=True).hidden_states
    assert (bare[1] - wanted[1]).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("attached_first", [True, False])
def test_edits_act_on_the_sum_and_are_seen_by_earlier_hooks(attached_first: bool) -> None:
    settings = replace(SMALL, placement="layer")
    model = build("llama")
    seen: list[Tensor] = []
    model(IDS, output_hidden_states=True)
    collected(model.model.layers[0], seen)
    with ExitStack() as stack:
        block = model.model.layers[0]
        if attached_first:
            stirred(model, settings)
        changing(block, "output", lambda out: torch.zeros_like(out), stack)
        if not attached_first:
            stirred(model, settings)
        found = model(IDS, output_hidden_states=True).hidden_states[1]
    assert (found == 0).all()
    assert (seen[-1] == 0).all()
    assert (model(IDS, output_hidden_states=True).hidden_states[1] != 0).any()


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("path", ["", "input_layernorm", "mlp"])
def test_nothing_is_kept_of_a_forward_that_failed(placement: str, path: str) -> None:
    model = stirred(build("llama"), replace(SMALL, placement=placement))
    before = model(IDS).logits
    handle = model.model.layers[1].get_submodule(path).register_forward_hook(boom)
    with pytest.raises(RuntimeError, match="boom"):
        model(IDS)
    handle.remove()
    assert [dict(mixture._read) for _, mixture in mixtures(model)] == [{}, {}]
    assert torch.equal(copy.deepcopy(model)(IDS).logits, before)


def test_a_forward_that_failed_is_not_held() -> None:
    model = stirred(build("llama"))
    with hold_routing(model) as held:
        model(IDS)
        right = balance_loss(held, SMALL)
    handle = model.model.layers[1].register_forward_hook(boom)
    with hold_routing(model) as held:
        with pytest.raises(RuntimeError, match="boom"):
            model(IDS[:, :5])
        handle.remove()
        assert held == []
        model(IDS)
        assert len(held) == 1
        torch.testing.assert_close(balance_loss(held, SMALL), right)
        held[0].layers.pop()
        model(IDS)
        with pytest.raises(InputError, match="ran through 1 and 2 blocks with experts"):
            balance_loss(held, SMALL)


def test_hooks_of_the_decoder_are_gone_after_an_exception() -> None:
    model = stirred(build("llama"))

    def counts() -> list[tuple[int, int]]:
        own = model.modules()
        return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in own]

    during: list[Any] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda *_: during.append(counts()))
    before = counts()
    with pytest.raises(IndexError), hold_routing(model):
        model(torch.full((1, 3), 10**6))
    assert during != [before]
    assert counts() == before


MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0, 0, 0]])
WAYS: dict[str, Callable[[Any], Any]] = {
    "by name": lambda decoder: decoder(input_ids=IDS, attention_mask=MASK),
    "by position": lambda decoder: decoder(IDS, MASK),
    "as truth values": lambda decoder: decoder(IDS, MASK.bool()),
}


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("over", ["step", "sequence"])
def test_a_padding_mask_is_seen_however_it_is_given(way: str, over: str) -> None:
    settings = replace(SMALL, balance_over=over)
    model = stirred(build("llama"), settings)
    with hold_routing(model) as held:
        WAYS[way](model.model)
        assert held[0].counted(settings).sum() == 13
        found = balance_loss(held, settings)
    with hold_routing(model) as held:
        model(IDS[:1])
        model(IDS[1:, :4])
        torch.testing.assert_close(found, balance_loss(held, settings))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["tensor", "dict"])
def test_another_form_of_mask_is_refused_unless_padding_counts(kind: str) -> None:
    model = stirred(build("qwen2"))
    mask: Any = torch.full((9, 9), float("-inf")).triu(1).expand(2, 1, 9, 9)
    words = r"a tensor of shape \(2, 1, 9, 9\)"
    if kind == "dict":
        mask, words = {"full_attention": mask}, "a dict"
    with hold_routing(model) as held:
        model.model(IDS, attention_mask=mask)
        assert torch.isfinite(balance_loss(held, replace(SMALL, balance_padding=True)))
        with pytest.raises(InputError, match=words):
            balance_loss(held, SMALL)


@torch.no_grad()
def test_a_sample_without_tokens_counts_in_no_mean() -> None:
    settings = replace(SMALL, balance_over="sequence")
    model = stirred(build("llama"), settings)
    mask = MASK * torch.tensor([[1], [0]])
    with hold_routing(model) as held:
        model(IDS, attention_mask=mask)
        found = balance_loss(held, settings)
    with hold_routing(model) as held:
        model(IDS[:1])
        torch.testing.assert_close(found, balance_loss(held, settings))


@torch.no_grad()
def test_flat_tokens_without_a_mask_are_of_their_samples() -> None:
    """OPT's blocks see all tokens of a batch on one axis."""
    settings = replace(SMALL, placement="mlp", balance_over="sequence")
    model = stirred(build("opt"), settings)
    with hold_routing(model) as held:
        model(IDS)
        found = balance_loss(held, settings)
        assert held[0].layers[0].logits.shape == (2, 9, 6)
    with hold_routing(model) as held:
        model(IDS[:1])
        model(IDS[1:])
        torch.testing.assert_close(found, balance_loss(held, settings))


@torch.no_grad()
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_generation_from_a_padded_batch_with_a_cache(placement: str) -> None:
    """As without a cache, and as of each sample alone; the experts change what is written."""
    model = stirred(build("llama"), replace(SMALL, placement=placement))
    for _, mixture in mixtures(model):
        mixture.up.mul_(4)
    how = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    ids, mask = IDS.clone(), torch.ones_like(IDS)
    ids[1, :4], mask[1, :4] = 5, 0
    given = {"input_ids": ids, "attention_mask": mask}
    cached, whole = (model.generate(**given, **how, use_cache=use) for use in (True, False))
    assert torch.equal(cached, whole)
    for sample, start in enumerate((0, 4)):
        own = ids[sample : sample + 1, start:]
        alone = model.generate(own, attention_mask=torch.ones_like(own), **how)
        assert torch.equal(alone[0], cached[sample, start:])
    plain = build("llama").generate(**given, **how)
    assert not torch.equal(plain[0], cached[0])
    assert not torch.equal(plain[1], cached[1])


def test_a_model_learns_nothing_in_experts_that_nobody_chose() -> None:
    """Who was chosen is told by the logits of routers, sorted by hand."""
    settings = replace(SMALL, routed=40)
    model = stirred(build("llama"), settings)
    with hold_routing(model) as held:
        model(IDS).logits.square().sum().backward()
        logits = [routing.logits.flatten(0, 1) for routing in held[0].layers]
    for (_, mixture), own in zip(mixtures(model), logits, strict=True):
        best = own.argsort(dim=-1, descending=True)[:, : settings.top_k]
        used = {0, *(1 + int(number) for number in best.flatten())}
        unused = [number for number in range(settings.experts) if number not in used]
        assert len(unused) >= 4
        for name in ("down", "up", "down_bias", "up_bias"):
            gradient = getattr(mixture, name).grad.flatten(1)
            assert (gradient[unused] == 0).all(), name
            assert (gradient[sorted(used)] != 0).any(dim=1).all(), name
        router = mixture.router.weight.grad
        assert (router[[number - 1 for number in sorted(used - {0})]] != 0).any(dim=1).all()
