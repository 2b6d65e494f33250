"""Origins in models with mixtures of experts: the book closes, and experts are named as authors."""

from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import sinkscope as ss
from sinkscope.errors import SiteError
from sinkscope.record import Record
from tests.families import batch, build
from tests.test_subjects_experts import PLACEMENTS, with_experts
from tests.test_trace_origin import FEATURES, found_at

NAMES = ("llama", "gemma2", "granite", "opt", "gpt_neox")
IDS = batch(samples=1)["input_ids"]
WRITTEN = 8


@lru_cache
def traced(name: str, placement: str) -> Record:
    return ss.trace(with_experts(name, placement), input_ids=IDS, at=found_at([2, 9]), others=3)


def without(trace: Record, **changed: object) -> Record:
    """The trace with variables changed, or left out where None."""
    variables = {name: trace[name] for name in trace if name != "length"} | changed
    kept = {name: array for name, array in variables.items() if array is not None}
    provenance = {k: v for k, v in trace.provenance.items() if k != "schema_version"}
    return Record.of(kept, trace.layouts, provenance, clips=trace.clips)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", NAMES)
def test_the_book_closes(name: str, placement: str) -> None:
    trace = traced(name, placement)
    ledger = ss.trace_origin(trace).ledger
    assert ledger.attrs["relative_error"] < 1e-5
    assert ledger.attrs["experts_beside"] == placement
    whole = ss.record(with_experts(name, placement), input_ids=IDS, keep=["expert_out"])
    tokens = trace["traced_token"].values[0]
    expected = whole["expert_out"].values[0][:, tokens][:, :, FEATURES]
    assert np.abs(expected).max() > 1e-2
    assert np.array_equal(trace["picked_expert_out"].values[0], expected)
    total = ledger["resid_pre"] + ledger["attn_out"] + ledger["mlp_out"]
    total += ledger["expert_out"] if placement == "layer" else 0
    assert np.allclose(total, ledger["resid_post"], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_book_without_its_experts_does_not_close(name: str) -> None:
    trace = traced(name, "layer")
    with pytest.raises(SiteError, match="attention and MLP do not explain"):
        ss.trace_origin(without(trace, picked_expert_out=None))
    other = trace["picked_expert_out"].roll(layer=1, roll_coords=False)
    with pytest.raises(SiteError, match="attention, MLP and experts do not explain"):
        ss.trace_origin(without(trace, picked_expert_out=other))


def test_what_experts_are_beside_must_be_known() -> None:
    trace = traced("llama", "mlp")
    trace = without(trace)
    trace.provenance["mome"] = None
    with pytest.raises(SiteError, match=r"mome\.placement is None"):
        ss.trace_origin(trace)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", ["llama", "opt", "granite"])
def test_neurons_explain_the_mlp_and_not_the_experts(name: str, placement: str) -> None:
    """All neurons, the bias and the experts make up what was added; none takes another's share."""
    trace = traced(name, placement)
    origin = ss.trace_origin(trace, count=1000)
    assert origin.unreadable == {}
    births = origin.births.set_index(["token", "feature"])
    for key, neurons in origin.neurons.groupby(["token", "feature"]):
        birth = births.loc[key]
        bias = trace["down_bias"].sel(layer=birth["layer"], feature=key[1]).item()
        place = list(trace["traced_token"].values[0]).index(key[0])
        act = trace["picked_mlp_act"].sel(layer=birth["layer"]).values[0, place]
        weight = trace["down_weight"].sel(layer=birth["layer"], feature=key[1]).values
        if bias == 0:
            own = birth["mlp_out"] - (birth["expert_out"] if placement == "mlp" else 0)
            assert neurons["contribution"].sum() == pytest.approx(own, rel=1e-3, abs=1e-4)
            assert neurons["share"].sum() == pytest.approx(1, abs=1e-2)
        if name != "granite":
            by_hand = (act * weight)[neurons["neuron"]]
            assert np.allclose(neurons["contribution"], by_hand, rtol=2e-3, atol=1e-4)


def write_by_experts(model: nn.Module, layer: int = 1, value: float = 2e3) -> nn.Module:
    """A shared expert of one block writes one feature at every token, and nothing else does."""
    mixture = model.model.layers[layer].mome  # type: ignore[union-attr]
    with torch.no_grad():
        mixture.up_bias[0, WRITTEN] = value
    return model


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_experts_are_named_where_they_give_birth(placement: str) -> None:
    model = write_by_experts(with_experts("llama", placement))
    trace = ss.trace(model, input_ids=IDS, at=found_at([2, 9], [WRITTEN]))
    origin = ss.trace_origin(trace, ratio=100)
    births = origin.births
    assert births["part"].tolist() == ["experts", "experts"]
    assert births["layer"].tolist() == [1, 1]
    assert (births["share"] > 0.95).all()
    assert births["neuron"].isna().all()
    assert "2 in layer 1 by the experts" in ss.describe(births)
    assert births["expert_out"].between(1.5e3, 2.5e3).all()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_an_mlp_is_not_taken_for_the_experts_beside_it(placement: str) -> None:
    """The MLP's own bias-like write, with experts that take a third of it away."""
    model = write_by_experts(with_experts("llama", placement), value=-600.0)
    mlp = model.model.layers[1].mlp  # type: ignore[union-attr]
    act = ss.record(model, input_ids=IDS, keep=["mlp_act"])["mlp_act"].values[0, 1, 2]
    neuron = int(np.abs(act).argmax())
    with torch.no_grad():
        mlp.down_proj.weight[WRITTEN, neuron] = 2000 / float(act[neuron])
    trace = ss.trace(model, input_ids=IDS, at=found_at([2], [WRITTEN]))
    birth = ss.trace_origin(trace, ratio=100).births.iloc[0]
    assert (birth["part"], birth["layer"], birth["neuron"]) == ("mlp", 1, neuron)
    assert birth["share"] == pytest.approx(2000 / 1400, rel=0.02)
    assert birth["neuron_share"] == pytest.approx(1, rel=0.02)


def test_a_removal_by_experts_is_named() -> None:
    model = write_by_experts(with_experts("llama", "layer"), layer=0)
    with torch.no_grad():
        model.model.layers[1].mome.up_bias[0, WRITTEN] = -2e3  # type: ignore[union-attr]
    trace = ss.trace(model, input_ids=IDS, at=found_at([2], [WRITTEN]))
    birth = ss.trace_origin(trace, ratio=100).births.iloc[0]
    assert (birth["part"], birth["layer"]) == ("experts", 0)
    assert (birth["removed_layer"], birth["removed_by"]) == (1, "experts")


def test_models_without_experts_have_no_column_of_them() -> None:
    trace = ss.trace(build("llama"), input_ids=IDS, at=found_at([2]))
    origin = ss.trace_origin(trace)
    assert "expert_out" not in origin.births
    assert "expert_out" not in origin.ledger
    assert isinstance(origin.births, pd.DataFrame)
