"""Mixtures of experts beside any family: sites add up, the router is read, nothing moves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import sinkscope as ss
from sinkscope.avsr.mome import MomeSettings
from sinkscope.errors import SiteError
from sinkscope.subjects.anatomy import anatomy_of
from sinkscope.subjects.expert_sites import mixture_of
from sinkscope.subjects.mome import attach_mome
from tests.families import FAMILIES, MORE_FAMILIES, PADDINGS, batch, build, tiny
from tests.test_subjects_anatomy import Sites, bookkeeping, far, read_sites

SMALL = MomeSettings(routed=6, top_k=2, shared=1, bottleneck=3)
PLACEMENTS = ("attention", "mlp", "layer")


def with_experts(name: str, placement: str = "attention", **changes: object) -> nn.Module:
    """A tiny random model with mixtures that add something."""
    model = attach_mome(build(name), replace(SMALL, placement=placement, **changes))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for block in anatomy_of(model).blocks:
            for parameter in block.mome.parameters():  # type: ignore[union-attr]
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def closes(seen: Sites, layer: int, placement: str, *, parallel: bool) -> float:
    """How far the stream is from its parts; beside a whole layer the experts close the sum."""
    if placement != "layer":
        return bookkeeping(seen, layer, parallel=parallel)
    seen = dict(seen)
    seen["resid_post", layer] = seen["resid_post", layer] - seen["expert_out", layer]
    return bookkeeping(seen, layer, parallel=parallel)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_sites_add_up_and_the_router_is_its_own(name: str, placement: str) -> None:
    model = with_experts(name, placement)
    anatomy, inputs = anatomy_of(model), batch("left")
    own: dict[int, torch.Tensor] = {}
    handles = [
        block.mome.router.register_forward_hook(  # type: ignore[union-attr]
            lambda _, __, output, i=i: own.update({i: output.softmax(-1).view(3, 12, -1)})
        )
        for i, block in enumerate(anatomy.blocks)
    ]
    seen, output = read_sites(model, anatomy, inputs)
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        assert torch.equal(output.logits, model(**inputs).logits)
    for layer in range(anatomy.n_layers):
        assert closes(seen, layer, placement, parallel=anatomy.parallel) < 1e-5
        assert torch.equal(seen["router", layer], own[layer])
        assert seen["expert_out", layer].abs().max() > 1e-3
        if placement == "layer":
            assert bookkeeping(seen, layer, parallel=anatomy.parallel) > 1e-3


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", MORE_FAMILIES)
def test_further_families(name: str, placement: str) -> None:
    model = with_experts(name, placement)
    anatomy = anatomy_of(model)
    seen, _ = read_sites(model, anatomy, batch())
    for layer in range(anatomy.n_layers):
        assert closes(seen, layer, placement, parallel=anatomy.parallel) < 1e-5
        assert seen["router", layer].shape == (3, 12, 6)


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite"])
def test_what_the_experts_add_is_part_of_what_the_part_adds(name: str) -> None:
    """With the up matrices at zero the part is left; the difference is the site."""
    model = with_experts(name)
    anatomy = anatomy_of(model)
    seen, _ = read_sites(model, anatomy, batch())
    with torch.no_grad():
        anatomy.blocks[0].mome.up.zero_()  # type: ignore[union-attr]
        anatomy.blocks[0].mome.up_bias.zero_()  # type: ignore[union-attr]
    bare, _ = read_sites(model, anatomy, batch())
    assert far(seen["attn_out", 0] - bare["attn_out", 0], seen["expert_out", 0]) < 1e-4


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_default_record_holds_the_router_and_leaves_the_model(
    placement: str, padding: str
) -> None:
    model, inputs = with_experts("opt", placement), batch(padding)
    with torch.no_grad():
        plain = model(**inputs).logits
        with ss.probe(model) as probe:
            assert torch.equal(model(**inputs).logits, plain)
    record = probe.record
    router = record["router"].transpose("sample", "layer", "token", "expert").values
    lengths = record["length"].values
    for sample, length in enumerate(lengths):
        assert np.allclose(router[sample, :, :length].sum(-1), 1, atol=1e-5)
        assert np.isnan(router[sample, :, length:]).all()
    assert record.provenance["mome"]["top_k"] == 2
    assert record.provenance["mome"]["shared"] == 1
    assert record.provenance["mome"]["placement"] == placement


def test_padding_does_not_move_the_routing_of_a_token() -> None:
    """The same tokens with left and with right padding: the same probabilities, token by token."""
    model = with_experts("llama")
    ids = batch()["input_ids"][:1, :8]
    alone = ss.record(model, input_ids=ids)["router"]
    for left in (True, False):
        pad = torch.zeros(1, 4, dtype=ids.dtype)
        parts, ones = [pad, ids], [pad, torch.ones_like(ids)]
        order = slice(None) if left else slice(None, None, -1)
        mask = torch.cat(ones[order], 1)
        padded = ss.record(model, input_ids=torch.cat(parts[order], 1), attention_mask=mask)
        assert np.allclose(padded["router"].values, alone.values, atol=1e-5)


def test_generation_with_a_cache_gives_the_routing_of_the_whole() -> None:
    model, ids = with_experts("llama"), batch()["input_ids"][:1]
    with ss.probe(model) as probe, torch.no_grad():
        out = model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    whole = ss.record(model, input_ids=out[:, :-1])["router"].values
    assert probe.record["router"].shape == whole.shape
    assert np.allclose(probe.record["router"].values, whole, atol=1e-5)


def _stop(*_: object) -> None:
    raise RuntimeError("stop")


def test_hooks_are_gone_after_an_exception() -> None:
    model = with_experts("llama")
    gate, mixture = (anatomy_of(model).blocks[0].get_submodule(n) for n in ("mome.gate", "mome"))
    before = len(gate._forward_hooks), len(mixture._forward_hooks)
    fails = model.lm_head.register_forward_pre_hook(_stop)  # type: ignore[union-attr]
    probe = ss.probe(model, ["router", "expert_out"])
    with pytest.raises(RuntimeError, match="stop"), probe:
        model(**batch())
    fails.remove()
    with ss.probe(model, ["router", "expert_out"]):
        assert len(gate._forward_hooks) == before[0] + 1
        model(**batch())
    assert (len(gate._forward_hooks), len(mixture._forward_hooks)) == before


def test_models_without_a_router_say_why() -> None:
    anatomy = anatomy_of(tiny("llama"))
    assert not anatomy.reads("router")
    assert not {"router", "expert_out"} & set(anatomy.sites())
    assert mixture_of(anatomy.blocks[0]) is None
    with pytest.raises(SiteError, match="no mixture of experts"):
        anatomy.tap("router", 0)
    assert "router" not in ss.record(tiny("llama"), **batch())
    assert ss.record(tiny("llama"), **batch()).provenance["mome"] is None
    shared = with_experts("llama", routed=0, top_k=0)
    assert "router" not in ss.record(shared, **batch(), keep=["expert_out"])
    with pytest.raises(SiteError, match="all experts of the mixture are shared"):
        anatomy_of(shared).tap("router", 0)


def test_another_sites_values_would_show() -> None:
    """The suite's own eyes: experts counted twice, or of another layer, do not close the sum."""
    model = with_experts("llama", "layer")
    seen, _ = read_sites(model, anatomy_of(model), batch())
    assert closes(seen, 1, "layer", parallel=False) < 1e-5
    seen["expert_out", 1] = seen["expert_out", 0]
    assert closes(seen, 1, "layer", parallel=False) > 1e-3
