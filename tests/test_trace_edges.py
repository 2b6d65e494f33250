"""Traces where little is there to trace: one layer, no rows, values that cancel, odd requests."""

import numpy as np
import pandas as pd
import pytest
import torch

import sinkscope as ss
from sinkscope.analysis.neurons import rank_neurons
from sinkscope.analysis.origin import _life
from sinkscope.errors import InputError, SiteError
from tests.families import batch, build, tiny
from tests.text_families import build_text

TABLE = pd.DataFrame({"sample": [0], "layer": [0], "token": [3], "feature": [2]})


def ids() -> torch.Tensor:
    return batch(samples=1)["input_ids"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": [9]}, "no layer 9; .* 0 to 1"),
        ({"layers": [-1]}, "no layer -1"),
        ({"features": [-2, 5]}, "feature -2 is outside"),
        ({"features": [5, 40]}, "feature 40 is outside"),
    ],
)
def test_what_the_model_lacks_is_named(given: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ss.trace(tiny("llama"), input_ids=ids(), at=TABLE, **given)


def test_tokens_are_those_of_the_tables() -> None:
    """Samples in another order are as long here, and only their labels tell them apart."""
    model, rows = tiny("llama"), batch(samples=2)["input_ids"]
    found = ss.find_massive_activations(ss.record(model, input_ids=rows), ratio=4.5)
    assert set(found["sample"]) == {0, 1}
    ss.trace(model, input_ids=rows, at=found)
    with pytest.raises(InputError, match="but here it is"):
        ss.trace(model, input_ids=rows.flip(0), at=found)


def test_contributions_that_cancel_are_not_blown_up() -> None:
    """What is left of two that cancel is rounding: no scale can be told from it."""
    model = build("llama")
    act = ss.record(model, input_ids=ids(), reducers=[ss.Keep("mlp_act")])["mlp_act"].values
    first, second = (float(act[0, 1, 3, neuron]) for neuron in (0, 1))
    weight = model.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        weight[2] = 0
        weight[2, 0], weight[2, 1] = 1e3 / first, -1e3 / second
    trace = ss.trace(model, input_ids=ids(), at=TABLE)
    place = trace["traced_token"].values[0].tolist().index(3)
    trace["picked_mlp_out"].values[0, 1, place, 0] = 3e-4
    assert float(trace["picked_mlp_out"][0, 1, place, 0]) == pytest.approx(3e-4)
    neurons = rank_neurons(trace, np.array([[0, place, 0]]), [1], count=48).set_index("neuron")
    assert neurons.loc[0, "contribution"] == pytest.approx(1e3, rel=1e-3)
    assert neurons.loc[1, "contribution"] == pytest.approx(-1e3, rel=1e-3)


def test_columns_keep_their_kinds_where_nothing_was_found() -> None:
    full = ss.trace_origin(ss.trace(tiny("llama"), input_ids=ids(), at=TABLE))
    none = ss.trace_origin(ss.trace(tiny("llama"), input_ids=ids(), at=TABLE[:0], features=[2]))
    for table in ("births", "neurons", "removals", "ledger"):
        found, empty = getattr(full, table).dtypes, getattr(none, table).dtypes
        assert list(found.index) == list(empty.index)
        numbers = found.map(pd.api.types.is_numeric_dtype)
        assert numbers.equals(empty.map(pd.api.types.is_numeric_dtype)), table
    assert not len(none.births)
    assert ss.describe(none.births) == "Nothing was traced."
    pd.concat([none.births, full.births])


def test_a_model_of_one_layer() -> None:
    model = build("llama", num_hidden_layers=1)
    origin = ss.trace_origin(ss.trace(model, input_ids=ids(), at=TABLE))
    assert origin.births["layer"].tolist() == [0]
    assert not len(origin.removals)


def test_experts_beside_a_plain_layer_survive_a_file(tmp_path) -> None:
    """Only layer 0 has neurons here, so their layers are an axis of their own."""
    trace = ss.trace(tiny("qwen3_moe"), input_ids=ids(), at=TABLE)
    opened = ss.Record.open(trace.save(tmp_path / "trace"))
    assert opened["picked_mlp_act"]["layer"].values.tolist() == [0]
    for table in ("births", "neurons", "removals", "ledger"):
        before, after = (getattr(ss.trace_origin(one), table) for one in (trace, opened))
        pd.testing.assert_frame_equal(before, after)


def test_inference_mode_frozen_weights_and_hooks_of_others() -> None:
    plain = ss.trace(build("llama"), input_ids=ids(), at=TABLE)
    with torch.inference_mode():
        model, calls = build("llama").requires_grad_(False), []
        hook = lambda *_: calls.append(1)  # noqa: E731
        model.model.layers[0].mlp.down_proj.register_forward_hook(hook)
        seen = ss.trace(model, input_ids=ids(), at=TABLE)
    assert calls
    for name in ("down_weight", "down_bias", "picked_mlp_out"):
        assert np.allclose(seen[name], plain[name], atol=1e-6)


def life(values: list[float], limit: float = 10.0) -> dict[str, object]:
    """The life of a value that enters with the first and leaves each block with the next."""
    before, after = np.array(values[:-1]), np.array(values[1:])
    path = {"resid_pre": before, "resid_post": after}
    added = {"attention": np.zeros(len(after)), "mlp": after - before}
    path |= added | {"attn_out": added["attention"], "mlp_out": added["mlp"]}
    return _life(path, np.full(len(after), limit), limit)


@pytest.mark.parametrize(
    ("values", "layer", "part", "last", "removed_by"),
    [
        ([0, 0, 20, 20, 20], 1, "mlp", 3, None),
        ([0, 0, -20, -20, 1], 1, "mlp", 2, "mlp"),
        ([0, 20, 1, 30, 1], 0, "mlp", 2, "mlp"),
        ([15, 20, 20, 20, 20], 0, "embedding", 3, None),
        ([15, 1, 20, 20, 20], 1, "mlp", 3, None),
        ([0, 20, 9, 9, 9], 0, "mlp", 0, "mlp"),
        ([0, 12, 9, 9, 9], 0, "mlp", 0, "median"),
        ([5, 6, 7, 7, 7], 0, "embedding", None, None),
        ([1, 2, 6, 6, 7], 1, "mlp", None, None),
        ([0, 0, 0, 0, 0], 0, "embedding", None, None),
    ],
)
def test_lives(values, layer, part, last, removed_by) -> None:
    row = life(values)
    assert (row["layer"], row["part"], row["last_layer"]) == (layer, part, last)
    assert row["removed_by"] == removed_by
    assert row["criterion"] == ("largest step" if last is None else "massive")
    assert np.isfinite(row["share"]) or not any(values)


def test_a_value_that_is_added_between_blocks_and_taken_there() -> None:
    left, between = np.array([0.0, 20, 20, 1]), np.array([0.0, 20, 0, -19])
    path = {"resid_pre": np.concatenate([[0.0], left[:-1]]) + between, "resid_post": left}
    nothing = np.zeros(4)
    path |= dict.fromkeys(("attention", "mlp", "attn_out", "mlp_out"), nothing)
    row = _life(path | {"between blocks": between}, np.full(4, 10.0), 10.0)
    assert (row["layer"], row["part"], row["share"]) == (1, "between blocks", 1.0)
    assert (row["removed_layer"], row["removed_by"]) == (3, "between blocks")
    assert row["step_layer"] == 1


def test_a_family_whose_mlps_have_several_widths_is_refused_by_its_sites() -> None:
    gemma = build_text("gemma3n_text", intermediate_size=[48, 32, 48, 32])
    found = pd.DataFrame({"sample": [0], "token": [1], "feature": [3]})
    with pytest.raises(SiteError, match="gemma3n_text"):
        ss.trace(gemma, input_ids=[[1, 4, 7]], at=found)
