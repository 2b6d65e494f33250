"""Massive features of a fine-tuned model and of its base: inherited, new, lost."""

from copy import deepcopy

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.analysis import find_massive_activations, find_sinks
from sinkscope.analysis.inheritance import compare_features
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.record import Record
from tests.fake_records import record_from, uniform_map
from tests.planted import Planted, planted

NEW = 50


@pytest.fixture(scope="module")
def plant() -> Planted:
    return planted()


@pytest.fixture(scope="module")
def tuned(plant: Planted) -> torch.nn.Module:
    """The planted model with the feature at 80 % of its size and another one, a block later."""
    model = deepcopy(plant.model)
    with torch.no_grad():
        model.model.layers[plant.layer].mlp.down_proj.weight[plant.feature] *= 0.8
        later = model.model.layers[plant.layer + 1].mlp
        for projection in (later.gate_proj, later.up_proj):
            projection.weight[3] = 0
            projection.weight[3, plant.feature] = 1
        later.down_proj.weight[:, 3] = 0
        later.down_proj.weight[NEW, 3] = 40
    return model


def test_inherited_new_and_lost(plant: Planted, tuned: torch.nn.Module) -> None:
    ids = plant.ids(30, sinks=(0, 7))
    found, base = (ss.record(model, input_ids=ids) for model in (tuned, plant.model))
    table = compare_features(found, base, ratio=500).set_index("feature")
    assert table["status"].to_dict() == {plant.feature: "inherited", NEW: "new"}
    old = table.loc[plant.feature]
    assert (old["found_layers"], old["base_layers"], old["both_layers"]) == ("1-4",) * 3
    assert old["magnitude_ratio"] == pytest.approx(0.8, abs=0.01)
    assert len(old["found_tokens"]) == 2
    assert table.loc[NEW, "found_layers"] == "2-4"
    assert table.loc[NEW, "base_layers"] == table.loc[NEW, "both_layers"] == ""
    assert np.isnan(table.loc[NEW, "base_magnitude"])
    back = compare_features(base, found, ratio=500).set_index("feature")
    assert back["status"].to_dict() == {plant.feature: "inherited", NEW: "lost"}
    assert back.loc[NEW, "base_magnitude"] == table.loc[NEW, "found_magnitude"]


def test_bos_alone_tells_all_of_bos(plant: Planted, tuned: torch.nn.Module) -> None:
    ids = plant.ids(30)
    texts = [
        find_massive_activations(ss.record(model, input_ids=ids), ratio=500)
        for model in (tuned, plant.model)
    ]
    long = compare_features(*(table.loc[table["token"] == 0] for table in texts))
    # One token has its own median, so the rule is a magnitude here.
    alone = [ss.record(model, input_ids=ids[:, :1]) for model in (tuned, plant.model)]
    short = compare_features(*alone, ratio=1, floor=1000)
    assert short["status"].tolist() == long["status"].tolist()
    for name in ("found_magnitude", "base_magnitude"):
        np.testing.assert_allclose(short[name], long[name], rtol=1e-5)


def of_states(
    features: dict[int, float], *, layers: int = 2, bos: bool = True, **facts: int
) -> Record:
    states = np.random.default_rng(0).uniform(0.5, 1.5, (layers, 10, 24))
    for feature, size in features.items():
        states[:, 0, feature] = size
    segments = ["bos" if bos else "text", *["text"] * 9]
    pattern = np.repeat(uniform_map(10)[None, None], layers, 0)
    record = record_from(pattern, states, TokenLayout.of(segments, ["t"] * 10))
    return Record(record.dataset, record.layouts, {**record.provenance, **facts}, record.clips)


def test_order_and_empty() -> None:
    table = compare_features(
        of_states({1: 500, 2: 900, 3: 600}), of_states({2: 800, 1: 500, 9: 700})
    )
    seen = table[["feature", "status"]].to_numpy().tolist()
    assert seen == [[2, "inherited"], [1, "inherited"], [3, "new"], [9, "lost"]]
    nothing = compare_features(of_states({}), of_states({}))
    assert nothing.empty
    assert list(nothing.columns) == list(table.columns)


def test_models_that_cannot_be_compared_are_refused() -> None:
    record = of_states({1: 500}, d_model=24)
    with pytest.raises(InputError, match="differ in their width, 24 and 48"):
        compare_features(record, of_states({1: 500}, d_model=48))
    with pytest.raises(InputError, match="differ in their number of layers, 2 and 3"):
        compare_features(of_states({}, n_layers=2), of_states({}, n_layers=3))
    with pytest.raises(InputError, match=r"recorded layers, \[0, 1\] and \[0, 1, 2\]"):
        compare_features(record, of_states({1: 500}, layers=3))
    with pytest.raises(InputError, match="all have a BOS, of its base's none has one"):
        compare_features(record, of_states({1: 500}, bos=False))
    lax = find_massive_activations(record, ratio=10)
    with pytest.raises(InputError, match=r"ratio to the median, 10\.0 and 50\.0"):
        compare_features(lax, record)
    with pytest.raises(InputError, match="ratio cannot be applied to finished tables"):
        compare_features(lax, lax, ratio=10)
    with pytest.raises(InputError, match="'sinks' is not one of find_massive_activations"):
        compare_features(record, find_sinks(record))
