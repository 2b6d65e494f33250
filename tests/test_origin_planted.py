"""Origins and causes on every planted variant: exact, with the decoys rejected."""

from typing import Any

import numpy as np
import pytest

import sinkscope as ss
from sinkscope.interventions.standard import leading_neurons
from tests.planted import Planted, planted
from tests.planted_variants import (
    PARALLEL,
    UNGATED,
    planted_gelu,
    planted_parallel,
    planted_sandwich,
    planted_scaled,
)
from tests.test_planted_variants import ENOUGH_HEADS, SINKS, TOKENS, VARIANTS

HEADS = {"heads": ENOUGH_HEADS}
DECOYS: dict[str, dict[str, Any]] = {
    "an outlier on every token": {"constant_outlier": 20},
    "a twin that is no sink": {"cosine_decoy": 9},
    "a neuron that writes nothing": {"decoy_neuron": 33},
}


def build(name: str) -> Planted:
    if name in VARIANTS:
        return planted(**HEADS | VARIANTS[name])
    if name in DECOYS:
        return planted(**HEADS | DECOYS[name])
    if name in PARALLEL:
        return planted_parallel(name, **HEADS)
    if name in UNGATED:
        return planted_gelu(name, **HEADS)
    return {"gemma2": planted_sandwich, "granite": planted_scaled}[name](**HEADS)


FAMILIES = sorted({*PARALLEL, *UNGATED, "gemma2", "granite"})
EVERY = [*VARIANTS, *DECOYS, *FAMILIES]


def text(plant: Planted, **places: Any):
    return plant.ids(TOKENS, sinks=SINKS, **places)


def origin_of(plant: Planted, ids):
    massive = ss.find_massive_activations(ss.record(plant.model, input_ids=ids))
    massive = massive.loc[massive["feature"].isin(plant.features) & massive["token"].isin(SINKS)]
    return ss.trace_origin(ss.trace(plant.model, input_ids=ids, at=massive))


@pytest.mark.parametrize("name", EVERY)
def test_births_removals_and_neurons(name: str) -> None:
    plant = build(name)
    origin = origin_of(plant, text(plant))
    births = origin.births
    pairs = set(zip(births["token"], births["feature"], strict=True))
    assert pairs == {(token, feature) for token in SINKS for feature in plant.features}
    assert set(births["layer"]) == {plant.layer}
    assert set(births["part"]) == {"mlp"}
    assert births["share"].between(0.99, 1.01).all()
    assert origin.ledger.attrs["relative_error"] < 1e-5
    writers = dict(
        zip(plant.features, np.resize(plant.plan.neurons, len(plant.features)), strict=True)
    )
    assert births["neuron"].tolist() == [writers[feature] for feature in births["feature"]]
    assert births["neuron_share"].min() > 0.99
    removed = plant.plan.removed_layer
    if removed is None:
        assert births["removed_layer"].isna().all()
        return
    assert set(births["removed_layer"]) == {removed}
    assert set(births["removed_by"]) == {"mlp"}
    first = origin.removals.loc[origin.removals["rank"] == 0]
    assert set(first["neuron"]) == {plant.plan.remover}


def test_a_birth_in_attention() -> None:
    plant = planted(born_in="attention", **HEADS)
    origin = origin_of(plant, text(plant))
    assert set(origin.births["layer"]) == {plant.layer}
    assert set(origin.births["part"]) == {"attention"}
    assert origin.births["neuron"].isna().all()
    head = plant.plan.birth_head
    with ss.intervene(plant.model, ss.knock_out(layers=plant.layer, heads=head)):
        record = ss.record(plant.model, input_ids=text(plant))
    assert ss.find_massive_activations(record).empty


@pytest.mark.parametrize("name", EVERY)
def test_silencing_the_planted_neurons_and_others(name: str) -> None:
    plant, ids = build(name), text(build(name))
    neurons = sorted(set(plant.plan.neurons))
    with ss.intervene(plant.model, ss.knock_out(layers=plant.layer, neurons=neurons)):
        record = ss.record(plant.model, input_ids=ids)
    massive = ss.find_massive_activations(record)
    assert not set(massive["feature"]) & set(plant.features)
    assert not set(ss.find_sinks(record)["token"]) & set(SINKS)
    others = [neuron + 1 for neuron in neurons]
    with ss.intervene(plant.model, ss.knock_out(layers=plant.layer, neurons=others)):
        record = ss.record(plant.model, input_ids=ids)
    assert set(ss.find_sinks(record)["token"]) == set(SINKS)


def test_an_outlier_on_every_token_is_not_blamed() -> None:
    plant = planted(constant_outlier=20, **HEADS)
    ids = text(plant)
    record = ss.record(plant.model, input_ids=ids)
    massive = ss.find_massive_activations(record, ratio=100)
    assert len(set(massive.loc[massive["feature"] == 20, "token"])) > 50
    scores = ss.validate_features(record, features=[20], ratio=100).iloc[-1]
    assert scores["precision"] < 0.2
    assert ss.validate_features(record, features=plant.features).iloc[-1]["precision"] == 1
    outlier = plant.plan.outlier_neuron
    with ss.intervene(plant.model, ss.knock_out(layers=plant.layer, neurons=outlier)):
        after = ss.record(plant.model, input_ids=ids)
    assert set(ss.find_sinks(after)["token"]) == set(SINKS)


def test_an_outlier_at_massive_height_is_left_out_in_words() -> None:
    plant = planted(constant_outlier=20, outlier_value=2500.0, values=(9000.0,), **HEADS)
    rules = ss.Thresholds(ratio=300, min_heads=0.3)
    story = ss.explain(plant.model, input_ids=text(plant), rules=rules)
    assert story.findings.outliers == (20,)
    assert story.findings.features == plant.features
    assert "Left out: feature 20" in story.words
    share = story.tests.set_index(["condition", "claim"])["share"]
    assert (share["silence neurons"] == 1).all()


def test_a_twin_that_is_no_sink_is_told_apart() -> None:
    plant = planted(cosine_decoy=9, **HEADS)
    story = ss.explain(plant.model, input_ids=text(plant, decoys=[15]), transcribe=False)
    sinks, massive = story.findings.sinks, story.findings.massive
    assert set(sinks["token"]) == set(SINKS)
    assert 15 in set(massive["token"])
    alpha = ss.key_attention(story.findings.record).mean("head").isel(key=15)
    assert float(alpha.max()) < 0.1


@pytest.mark.parametrize("name", ["two neurons", *DECOYS, *FAMILIES])
def test_explain_names_the_neurons_and_its_tests_agree(name: str) -> None:
    plant = build(name)
    story = ss.explain(plant.model, input_ids=text(plant), rules=ss.Thresholds(min_heads=0.3))
    chosen = leading_neurons(story.findings)
    assert {layer: sorted(own) for layer, own in chosen.items()} == {
        plant.layer: sorted(plant.plan.neurons)
    }
    share = story.tests.set_index(["condition", "claim"])["share"]
    assert (share["silence neurons"] == 1).all()
    assert (share["silence random neurons"] == 1).all()
