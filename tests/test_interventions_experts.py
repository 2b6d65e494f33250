"""Edits in models with mixtures of experts: parts with their experts, experts alone, one expert."""

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.errors import InputError, SiteError
from tests.families import batch, tiny
from tests.test_interventions import hooks_of
from tests.test_subjects_experts import PLACEMENTS, _stop, with_experts

IDS = batch(samples=1)["input_ids"]
LAYER = 1
TOKEN = 4
SITES = ("attn_out", "mlp_out", "expert_out", "resid_post", "resid_pre")


def seen(model, site: str, *edits) -> np.ndarray:
    """What a site of the layer holds, ``[token, ...]``."""
    with ss.intervene(model, [*edits]):
        return ss.record(model, input_ids=IDS, keep=[site])[site].sel(layer=LAYER).values[0]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", ["llama", "opt", "granite"])
def test_zero_is_seen_at_its_site(name: str, placement: str) -> None:
    """Also where a mixture adds to what the edited module gives: what passes is the sum."""
    model = with_experts(name, placement)
    for site in SITES:
        plain = seen(model, site)
        changed = seen(model, site, ss.Zero(site=site, layers=LAYER, tokens=TOKEN))
        assert (changed[TOKEN] == 0).all(), site
        assert np.abs(plain[TOKEN]).max() > 1e-3
        assert np.array_equal(changed[:TOKEN], plain[:TOKEN])


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_scale_and_replace_reach_the_stream(placement: str) -> None:
    """Twice what the experts add is the stream with it once more, where no part reads it later."""
    model = with_experts("llama", placement)
    added, before = (seen(model, site) for site in ("expert_out", "resid_post"))
    half = seen(model, "expert_out", ss.Scale(by=0.5, site="expert_out", layers=LAYER))
    assert np.allclose(half, added / 2, atol=1e-6)
    after = seen(model, "resid_post", ss.Scale(by=2.0, site="expert_out", layers=LAYER))
    if placement != "attention":
        assert np.allclose(after, before + added, atol=1e-4)
    else:
        assert np.abs(after - before).max() > 1e-2
    edit = ss.Replace(value=1.5, site="expert_out", layers=LAYER, features=[3])
    assert (seen(model, "expert_out", edit)[:, 3] == 1.5).all()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_model_without_its_experts_is_the_model_before_them(placement: str) -> None:
    model = with_experts("llama", placement)
    with torch.no_grad(), ss.intervene(model, ss.knock_out(layers=[0, 1], part="experts")):
        silent = model(IDS).logits
    with torch.no_grad():
        assert torch.allclose(silent, tiny("llama")(IDS).logits, atol=1e-5)
        assert not torch.allclose(silent, model(IDS).logits, atol=1e-2)


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_silenced_expert_adds_nothing(placement: str, renormalise: bool) -> None:
    """As if its up matrix were 0; the others' gates stay, or grow to the sum that there was."""
    model = with_experts("opt", placement)
    gates = seen(model, "expert_gates")
    used = (gates > 0).sum(0)
    expert = int(used.argmax())
    assert 0 < used[expert] < len(gates)
    edit = ss.SilenceExperts(layers=LAYER, experts=expert, renormalise=renormalise)
    left = seen(model, "expert_gates", edit)
    expected = gates.copy()
    expected[:, expert] = 0
    if renormalise:
        expected *= gates.sum(1, keepdims=True) / expected.sum(1, keepdims=True)
    assert np.allclose(left, expected, atol=1e-6)
    others = gates[:, expert] == 0
    assert np.array_equal(left[others], gates[others])
    changed = seen(model, "expert_out", edit)
    assert np.array_equal(changed[others], seen(model, "expert_out")[others])
    if not renormalise:
        mixture = model.model.decoder.layers[LAYER].mome  # type: ignore[union-attr]
        with torch.no_grad():
            mixture.up[1 + expert] = 0
            mixture.up_bias[1 + expert] = 0
        assert np.allclose(changed, seen(model, "expert_out"), atol=1e-5)


def test_all_routed_experts_can_be_silenced() -> None:
    model = with_experts("llama")
    edit = ss.SilenceExperts(layers=LAYER, experts=range(6), renormalise=True)
    assert (seen(model, "expert_gates", edit) == 0).all()
    assert np.isfinite(seen(model, "resid_post", edit)).all()
    assert np.abs(seen(model, "expert_out", edit)).max() > 1e-3


def test_generation_with_a_cache_is_that_of_the_whole() -> None:
    """Prompt and new tokens, one by one, get the gates that one long forward gives them."""
    model = with_experts("llama")
    edit = ss.knock_out(layers=[0, 1], experts=[0, 3])
    with ss.intervene(model, edit), torch.no_grad():
        with ss.probe(model, ["expert_gates", "expert_out"]) as probe:
            out = model.generate(IDS, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        whole = ss.record(model, input_ids=out[:, :-1], keep=["expert_gates", "expert_out"])
    for site in ("expert_gates", "expert_out"):
        assert np.allclose(probe.record[site].values, whole[site].values, atol=1e-5)
    assert (probe.record["expert_gates"].values[..., [0, 3]] == 0).all()
    assert (probe.record["expert_gates"].values[..., [1, 2, 4, 5]] > 0).any()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_nothing_is_left_after_an_exception(placement: str) -> None:
    model = with_experts("llama", placement)
    before = hooks_of(model)
    with torch.no_grad():
        plain = model(IDS).logits
    edits = [
        ss.knock_out(layers=0, experts=[1, 2]),
        ss.knock_out(layers=1, part="experts"),
        ss.Scale(by=0.0, site="attn_out", layers=0),
        ss.Scale(by=0.5, site="mlp_out", layers=0),
    ]
    stop = model.lm_head.register_forward_pre_hook(_stop)
    with pytest.raises(RuntimeError, match="stop"), ss.intervene(model, edits), torch.no_grad():
        model(IDS)
    stop.remove()
    assert hooks_of(model) == before
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, plain)


def test_measure_tells_what_experts_cost() -> None:
    model = with_experts("llama", "layer")
    edits = {
        "no experts": ss.knock_out(layers=[0, 1], part="experts"),
        "no expert 2": ss.knock_out(layers=1, experts=2),
    }
    summary = ss.measure(model, None, edits, input_ids=IDS, draws=50).summary
    kl = summary.loc[summary["metric"] == "kl"].set_index("condition")["after"]
    assert kl["no experts"] > kl["no expert 2"] > 0


def test_what_a_model_lacks_is_refused_before_anything_runs() -> None:
    model = with_experts("llama")
    for make, message in (
        (lambda: ss.SilenceExperts(layers=0, experts=6), "no routed expert 6; there are 6"),
        (lambda: ss.SilenceExperts(layers=0, experts=-1), "numbers from 0"),
        (lambda: ss.SilenceExperts(layers=0, experts=[]), "numbers from 0"),
        (lambda: ss.SilenceExperts(layers=0, experts=1, features=2), "leave site= and features="),
        (lambda: ss.Zero(site="router", layers=0), "by-product; the gates are at"),
        (lambda: ss.knock_out(layers=0, experts=1, neurons=2), "one of part="),
    ):
        with pytest.raises(InputError, match=message), ss.intervene(model, make()):
            pytest.fail("this must not run")
    plain, edit = tiny("llama"), ss.knock_out(layers=0, experts=1)
    with pytest.raises(SiteError, match="no mixture of experts"), ss.intervene(plain, edit):
        pytest.fail("this must not run")
