"""Mixtures of experts of transformers: router, gates and sum, against a loop over the experts."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sinkscope as ss
from sinkscope.errors import InputError, SiteError
from sinkscope.subjects.anatomy import Anatomy, anatomy_of
from tests.families import batch, build
from tests.test_subjects_anatomy import SAMPLES, far, read_sites
from tests.text_families import build_text

FUSED = ("mixtral", "gpt_oss", "qwen2_moe", "qwen3_moe", "qwen3_omni_moe_text", "qwen3_vl_moe_text")
LOGITS = ("mixtral", "gpt_oss", "qwen2_moe", "qwen3_moe")
SHARED = ("qwen2_moe",)


def model_of(name: str, **changes: object) -> nn.Module:
    return build_text(name, **changes) if name.endswith("_text") else build(name, **changes)


def layers_with(anatomy: Anatomy) -> tuple[int, ...]:
    return anatomy.layers_of("router")


def expert(name: str, experts: nn.Module, number: int, states: Tensor) -> Tensor:
    """What one expert makes of every token, from its own slice of the fused weights."""
    both = experts.gate_up_proj[number]
    down = experts.down_proj[number]
    if name == "gpt_oss":
        made = states @ both + experts.gate_up_proj_bias[number]
        gate, up = made[..., ::2].clamp(max=7.0), made[..., 1::2].clamp(-7.0, 7.0)
        return ((up + 1) * gate * torch.sigmoid(1.702 * gate)) @ down + experts.down_proj_bias[
            number
        ]
    gate, up = functional.linear(states, both).chunk(2, -1)
    return functional.linear(functional.silu(gate) * up, down)


@pytest.mark.parametrize("name", FUSED)
def test_sites_are_those_of_a_loop_over_experts(name: str) -> None:
    model = model_of(name)
    anatomy, inputs = anatomy_of(model), batch("left", samples=SAMPLES)
    entering: dict[int, Tensor] = {}
    for layer, block in enumerate(anatomy.blocks):
        block.mlp.register_forward_pre_hook(
            lambda _, args, layer=layer: entering.__setitem__(layer, args[0].detach())
        )
    tapped = {
        (site, layer): anatomy.tap(site, layer)
        for site in ("router", "expert_gates", "expert_out")
        for layer in layers_with(anatomy)
    }
    seen = watch(model, tapped, inputs)
    sites, _ = read_sites(model, anatomy, inputs)
    for layer in layers_with(anatomy):
        probabilities, gates = seen["router", layer], seen["expert_gates", layer]
        assert torch.allclose(probabilities.sum(-1), torch.ones(SAMPLES, 12), atol=1e-5)
        assert ((gates > 0).sum(-1) == 2).all()
        chosen = probabilities.topk(2).indices
        assert (gates.gather(-1, chosen) > 0).all()
        block = anatomy.blocks[layer].mlp
        experts = block.experts
        with torch.no_grad():
            loop = sum(
                gates[..., i, None] * expert(name, experts, i, entering[layer]) for i in range(4)
            )
            added = seen["expert_out", layer]
            assert far(added, loop) < 1e-5
            if name in SHARED:
                shared = block.shared_expert(entering[layer])
                shared = shared * block.shared_expert_gate(entering[layer]).sigmoid()
                assert far(shared, sites["mlp_out", layer]) > 1e-2
                added = added + shared
        assert far(added, sites["mlp_out", layer]) < 1e-5


def watch(model: nn.Module, taps: dict, inputs: dict) -> dict[tuple[str, int], Tensor]:
    seen: dict[tuple[str, int], Tensor] = {}
    handles = [
        tap.module.register_forward_hook(
            lambda _, __, output, key=key, tap=tap: seen.__setitem__(
                key, tap.read(output, samples=SAMPLES).detach()
            )
        )
        for key, tap in taps.items()
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", LOGITS)
def test_a_record_holds_what_the_model_says_of_its_routers(name: str) -> None:
    model, inputs = model_of(name), batch("right", samples=SAMPLES)
    anatomy = anatomy_of(model)
    with torch.no_grad():
        own = model(**inputs, output_router_logits=True).router_logits
    record = ss.record(model, **inputs, keep=["expert_gates", "expert_out"])
    layers = layers_with(anatomy)
    assert record["router"]["layer"].values.tolist() == list(layers)
    assert record.provenance["mixture"]["layers"] == list(layers)
    for place in range(len(layers)):
        wanted = torch.softmax(own[place].float(), -1).view(SAMPLES, 12, 4)
        found = record["router"][:, place].values
        for sample, length in enumerate(record["length"].values):
            assert np.allclose(found[sample, :length], wanted[sample, :length], atol=1e-6)
            assert np.isnan(found[sample, length:]).all()
    usage = ss.expert_usage(record)
    assert usage.loc[usage["segment"] == "all"].groupby("layer")["usage"].sum().round(6).eq(1).all()


@pytest.mark.parametrize("name", LOGITS)
def test_tables_choose_again_what_the_router_chose(name: str) -> None:
    from sinkscope.analysis.routing import routed_tokens

    record = ss.record(model_of(name), **batch(samples=SAMPLES), keep=["expert_gates"])
    routed = routed_tokens(record)
    assert np.array_equal(routed.chosen, record["expert_gates"].values > 0)
    assert np.allclose(routed.gates, record["expert_gates"].values, atol=1e-5)


def test_dense_layers_are_left_out_and_refused() -> None:
    model = build("qwen3_moe")
    record = ss.record(model, **batch(), keep=["expert_gates"])
    assert record["expert_gates"]["layer"].values.tolist() == [1]
    with pytest.raises(SiteError, match="no mixture of experts"):
        ss.record(model, **batch(), reducers=[ss.Keep("router", layers=(0,))])
    with pytest.raises(SiteError, match="no mixture of experts"):
        ss.record(build("llama"), **batch(), keep=["router"])


def test_gemma_4_has_gates_but_no_sum_of_its_own() -> None:
    model = build_text("gemma4_text:experts")
    record = ss.record(model, **batch(samples=SAMPLES), keep=["expert_gates"])
    assert np.allclose(record["router"].sum("expert"), 1, atol=1e-5)
    scale = model.model.layers[1].router.per_expert_scale.detach()
    gates = record["expert_gates"][:, 1].values / scale.numpy()
    assert np.allclose(gates.sum(-1), 1, atol=1e-5)
    with pytest.raises(SiteError, match="norms the sum"):
        ss.record(model, **batch(), keep=["expert_out"])
    with pytest.raises(InputError, match="expert_gates"):
        ss.expert_usage(record)


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe"])
def test_silenced_experts_add_nothing(name: str) -> None:
    model, inputs = model_of(name), batch(samples=SAMPLES)
    with ss.intervene(model, [ss.SilenceExperts(layers=1, experts=[0, 1, 2, 3])]):
        silent = ss.record(model, **inputs, keep=["expert_out", "mlp_out", "expert_gates"])
    plain = ss.record(model, **inputs, keep=["expert_out", "mlp_out"])
    assert not silent["expert_out"].sel(layer=1).values.any()
    assert not silent["expert_gates"].sel(layer=1).values.any()
    shared = plain["mlp_out"].sel(layer=1) - plain["expert_out"].sel(layer=1)
    if name == "qwen2_moe":
        assert np.allclose(silent["mlp_out"].sel(layer=1), shared, atol=1e-5)
    with (
        pytest.raises(InputError, match="there are 4"),
        ss.intervene(model, [ss.SilenceExperts(layers=1, experts=4)]),
    ):
        pass


def test_a_gate_for_an_expert_that_is_not_run_is_refused() -> None:
    model = build("mixtral")
    tap = anatomy_of(model).tap("expert_gates", 0)
    handle = tap.module.register_forward_hook(
        lambda _, __, output: tap.write(output, torch.ones(SAMPLES, 12, 4))
    )
    with pytest.raises(SiteError, match="did not choose"), torch.no_grad():
        model(**batch(samples=SAMPLES))
    handle.remove()


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_the_book_of_the_stream_counts_the_experts_once(name: str) -> None:
    import pandas as pd

    from sinkscope.analysis.ledger import residual_ledger

    found = pd.DataFrame({"sample": [0], "token": [4], "feature": [3]})
    book = residual_ledger(ss.trace(model_of(name), None, at=found, **batch(samples=1)))
    assert book.beside == "mlp"
    assert book.relative_error() < 1e-5
    rest = np.abs(book.parts["mlp"]).max(axis=(0, 2, 3))
    assert (rest > 1e-2).tolist() == [name != "mixtral", name == "qwen2_moe"]
