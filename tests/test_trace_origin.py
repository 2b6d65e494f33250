"""The residual book closes in every family, and what neurons add sums to what the MLP added."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import sinkscope as ss
from sinkscope.errors import InputError, SiteError
from sinkscope.probes.down_projections import read_rows
from sinkscope.subjects.anatomy import anatomy_of
from tests.families import CONFIGURATIONS, batch, build, tiny
from tests.planted import planted

FEATURES = [3, 8, 17]


def found_at(tokens: list[int], features: list[int] = FEATURES, sample: int = 0) -> pd.DataFrame:
    rows = [(sample, token, feature) for token in tokens for feature in features]
    return pd.DataFrame(rows, columns=["sample", "token", "feature"])


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_book_closes(name: str) -> None:
    model, ids = tiny(name), batch(samples=1)["input_ids"]
    trace = ss.trace(model, input_ids=ids, at=found_at([2, 9]), others=3)
    origin = ss.trace_origin(trace)
    assert origin.ledger.attrs["relative_error"] < 1e-5
    for site in ("resid_pre", "resid_post", "attn_out", "mlp_out"):
        whole = ss.record(model, input_ids=ids, reducers=[ss.Keep(site)])[site][0]
        tokens = trace["traced_token"].values[0]
        expected = whole.values[:, tokens][:, :, FEATURES]
        assert np.array_equal(trace[f"picked_{site}"].values[0], expected)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_contributions_sum_to_what_the_mlp_adds(name: str) -> None:
    model, ids = tiny(name), batch(samples=1)["input_ids"]
    anatomy = anatomy_of(model)
    trace = ss.trace(model, input_ids=ids, at=found_at([2, 9]))
    origin = ss.trace_origin(trace, count=1000)
    readable = [i for i in range(anatomy.n_layers) if not anatomy.absence("mlp_act", i)]
    assert set(origin.unreadable) == set(range(anatomy.n_layers)) - set(readable)
    assert all("fused" in why for why in origin.unreadable.values())
    keys = ["token", "feature"]
    births = origin.births.set_index(keys)
    for key, neurons in origin.neurons.groupby(keys):
        birth = births.loc[key]
        scale_of_bias = birth["mlp_out"] - neurons["contribution"].sum()
        bias = trace["down_bias"].sel(layer=birth["layer"], feature=key[1]).item()
        if bias == 0:
            assert abs(scale_of_bias) < 1e-4 * (1 + abs(birth["mlp_out"]))
        else:
            assert scale_of_bias == pytest.approx(bias, rel=2e-3, abs=1e-4)
    assert set(origin.neurons["layer"]) <= set(readable)


def test_what_was_planted_is_found() -> None:
    plant = planted()
    ids = plant.ids(60, sinks=[0, 7, 23])
    massive = ss.find_massive_activations(ss.record(plant.model, input_ids=ids))
    origin = ss.trace_origin(ss.trace(plant.model, input_ids=ids, at=massive))
    assert origin.births["token"].tolist() == [0, 7, 23]
    assert origin.births["kind"].tolist() == ["bos", "intermediate", "intermediate"]
    assert set(origin.births["feature"]) == {plant.feature}
    assert set(origin.births["layer"]) == {plant.layer}
    assert set(origin.births["part"]) == {"mlp"}
    assert set(origin.births["neuron"]) == {plant.neuron}
    assert set(origin.births["n_half"]) == {1}
    assert np.allclose(origin.births["neuron_share"], 1, atol=1e-3)
    assert origin.births["removed_layer"].isna().all()
    first = origin.neurons.loc[origin.neurons["rank"] == 0]
    assert (first["gate"] > 3).all()
    assert (first["gate_others"].abs() < 1e-6).all()


def test_a_removal_has_an_author() -> None:
    plant = planted()
    layers = plant.model.model.layers
    remover = layers[3].mlp
    with torch.no_grad():
        for projection in (remover.gate_proj, remover.up_proj):
            projection.weight[20] = 0
            projection.weight[20, 0] = 1
        remover.down_proj.weight[plant.feature, 20] = 0
    ids = plant.ids(40, sinks=[0, 9])
    probe = ss.record(
        plant.model, input_ids=ids, reducers=[ss.Keep("mlp_act"), ss.Keep("resid_pre")]
    )
    act = float(probe["mlp_act"][0, 3, 0, 20])
    value = float(probe["resid_pre"][0, 3, 0, plant.feature])
    with torch.no_grad():
        remover.down_proj.weight[plant.feature, 20] = -value / act
    massive = ss.find_massive_activations(ss.record(plant.model, input_ids=ids))
    origin = ss.trace_origin(ss.trace(plant.model, input_ids=ids, at=massive))
    bos = origin.births.loc[origin.births["token"] == 0].iloc[0]
    assert (bos["last_layer"], bos["removed_layer"], bos["removed_by"]) == (2, 3, "mlp")
    leading = origin.removals.loc[(origin.removals["token"] == 0) & (origin.removals["rank"] == 0)]
    assert leading["neuron"].tolist() == [20]
    assert leading["share"].item() == pytest.approx(1, abs=1e-3)


def test_only_what_the_tables_name_is_reported() -> None:
    model, ids = tiny("llama"), batch(samples=1)["input_ids"]
    table = pd.DataFrame({"sample": [0, 0], "token": [2, 5], "feature": [3, 8]})
    origin = ss.trace_origin(ss.trace(model, input_ids=ids, at=table))
    pairs = list(zip(origin.births["token"], origin.births["feature"], strict=True))
    assert pairs == [(2, 3), (5, 8)]
    assert set(origin.births["criterion"]) == {"largest step"}


def test_several_texts_and_a_padded_batch() -> None:
    model, given = tiny("llama"), batch("left")
    found = pd.concat([found_at([2], sample=0), found_at([4], sample=2)])
    together = ss.trace(model, **given, at=found, others=2)
    for sample, token in ((0, 2), (2, 4)):
        real = given["attention_mask"][sample].bool()
        own = found.loc[found["sample"] == sample].assign(sample=0)
        alone = ss.trace(model, input_ids=given["input_ids"][sample][real], at=own, others=0)
        places = np.flatnonzero(together["traced_token"].values[sample] == token)
        for site in ("resid_pre", "mlp_out", "resid_post"):
            both = together[f"picked_{site}"].values[sample][:, places]
            assert np.allclose(both, alone[f"picked_{site}"].values[0], atol=1e-4)
    births = ss.trace_origin(together).births
    assert births["sample"].tolist() == [0, 0, 0, 2, 2, 2]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_adapters_are_in_the_rows() -> None:
    from peft import LoraConfig, get_peft_model

    model = build("llama")
    wrapped = get_peft_model(
        model, LoraConfig(r=4, target_modules=["down_proj"], init_lora_weights=False)
    ).eval()
    ids = batch(samples=1)["input_ids"]
    trace = ss.trace(wrapped, input_ids=ids, at=found_at([2]))
    merged = wrapped.merge_and_unload()
    for layer in range(2):
        weight = merged.model.layers[layer].mlp.down_proj.weight[FEATURES].detach().numpy()
        assert np.allclose(trace["down_weight"].sel(layer=layer).values, weight, atol=1e-5)


def test_offloaded_weights_are_fetched_by_their_own_hooks() -> None:
    from accelerate import cpu_offload

    ids = batch(samples=1)["input_ids"]
    plain = ss.trace(build("llama"), input_ids=ids, at=found_at([2]))
    model = build("llama")
    cpu_offload(model, execution_device="cpu")
    assert model.model.layers[0].mlp.down_proj.weight.device.type == "meta"
    trace = ss.trace(model, input_ids=ids, at=found_at([2]))
    assert trace.provenance["unreadable"] == {}
    assert np.array_equal(trace["down_weight"], plain["down_weight"])
    births = (ss.trace_origin(seen).births["neuron"].tolist() for seen in (trace, plain))
    assert next(births) == next(births)


class WithoutGradient(nn.Module):
    """What a quantised projection may be: right, but no gradient flows."""

    def __init__(self, inner: nn.Linear, bend: float = 0.0) -> None:
        super().__init__()
        self.inner, self.bend = inner, bend

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.inner(states) + self.bend * states.abs().amax() ** 2


def test_a_projection_without_gradients_is_read_unit_by_unit() -> None:
    linear = nn.Linear(7, 5)
    rows = read_rows(WithoutGradient(linear), torch.ones(1, 7), [4, 1])
    assert torch.allclose(rows.weight, linear.weight[[4, 1]], atol=1e-6)
    assert torch.allclose(rows.bias, linear.bias[[4, 1]])


class NoBackward(torch.autograd.Function):
    """A kernel that nobody wrote a gradient for."""

    @staticmethod
    def forward(ctx, states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return states @ weight.T


class Kernel(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return NoBackward.apply(states, self.weight)


def test_a_kernel_without_a_gradient_and_weights_of_inference_mode_are_read_too() -> None:
    with torch.inference_mode():
        of_inference = nn.Linear(7, 5)
    kernel = Kernel(torch.randn(5, 7))
    for module in (of_inference, kernel):
        rows = read_rows(module, torch.ones(1, 7), [4, 1])
        assert torch.allclose(rows.weight, module.weight[[4, 1]], atol=1e-6)


def test_an_error_of_the_projection_is_not_hidden() -> None:
    class Exhausted(nn.Linear):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            if states.requires_grad:
                raise torch.OutOfMemoryError("no memory is left")
            return super().forward(states)

    with pytest.raises(torch.OutOfMemoryError):
        read_rows(Exhausted(7, 5), torch.ones(1, 7), [4])


def test_a_projection_that_is_not_linear_is_not_read() -> None:
    model, ids = build("llama"), batch(samples=1)["input_ids"]
    mlp = model.model.layers[0].mlp
    mlp.down_proj = WithoutGradient(mlp.down_proj, bend=1.0)
    origin = ss.trace_origin(ss.trace(model, input_ids=ids, at=found_at([2])))
    assert list(origin.unreadable) == [0]
    assert "not linear" in origin.unreadable[0]
    assert 0 not in set(origin.neurons["layer"])


def test_a_site_read_in_the_wrong_place_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from sinkscope.subjects import families

    wrong = replace(families.family("gemma2"), mlp_out="mlp")
    monkeypatch.setitem(families._TABLE, "gemma2", wrong)
    trace = ss.trace(build("gemma2"), input_ids=batch(samples=1)["input_ids"], at=found_at([2]))
    with pytest.raises(SiteError, match="do not explain"):
        ss.trace_origin(trace)


def test_half_precision_closes_as_far_as_it_can() -> None:
    model = build("llama").to(torch.bfloat16)
    trace = ss.trace(model, input_ids=batch(samples=1)["input_ids"], at=found_at([2]))
    assert ss.trace_origin(trace).ledger.attrs["relative_error"] < 1e-2


def test_a_trace_can_be_saved_and_opened(tmp_path) -> None:
    trace = ss.trace(tiny("llama"), input_ids=batch(samples=1)["input_ids"], at=found_at([2]))
    opened = ss.Record.open(trace.save(tmp_path / "trace"))
    pd.testing.assert_frame_equal(
        ss.trace_origin(opened).births, ss.trace_origin(trace).births, check_dtype=False
    )


@pytest.mark.parametrize(
    ("table", "more", "message"),
    [
        (pd.DataFrame({"sample": [0], "token": [2]}), {}, "name no feature"),
        (pd.DataFrame({"token": [2], "feature": [1]}), {}, "column 'sample'"),
        (found_at([99]), {}, "has 12"),
        (found_at([2], [400]), {}, "outside 0 to 31"),
        (found_at([2]), {"max_bytes": 10}, "more than the limit"),
    ],
)
def test_bad_requests(table: pd.DataFrame, more: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ss.trace(tiny("llama"), input_ids=batch(samples=1)["input_ids"], at=table, **more)


def test_a_record_that_is_no_trace() -> None:
    record = ss.record(tiny("llama"), input_ids=batch(samples=1)["input_ids"])
    with pytest.raises(SiteError, match="no trace"):
        ss.trace_origin(record)
