"""Planted models are recovered exactly (token, feature, layer, neuron), and the decoys rejected."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

import sinkscope as ss
from sinkscope.analysis import bos_similarity, massive_features, twins
from sinkscope.record import Record
from tests.planted import Planted, planted

TOKENS = 60
SINKS = (0, 7, 23)
ENOUGH_HEADS = (0, 1, 2, 5, 6)
"""Five of eight: a sink of three passes ``min_heads`` though its head mean stays below 0.3."""


def seen(plant: Planted, *, sinks: tuple[int, ...] = SINKS, **places: Any) -> Record:
    """A record of a text with triggers, with what the bookkeeping and the neurons need."""
    ids = plant.ids(TOKENS, sinks=sinks, **places)
    keep = ["mlp_act", "resid_pre", "resid_post", "attn_out", "mlp_out"]
    return ss.record(plant.model, input_ids=ids, keep=keep)


def cells(table: pd.DataFrame, *columns: str) -> set[tuple[int, ...]]:
    """The distinct rows of some columns."""
    return set(zip(*(table[name] for name in columns), strict=True))


def contributions(plant: Planted, record: Record, layer: int, feature: int) -> np.ndarray:
    """What every neuron of a block adds to a feature: ``(token, neuron)``."""
    return record["mlp_act"][0, layer].values * plant.writes(layer)[feature].numpy()


def check_sinks(plant: Planted, record: Record, sinks: tuple[int, ...] = SINKS) -> None:
    """Attention gathers on the triggers, in the locked layers and nowhere else."""
    found = ss.find_sinks(record)
    assert cells(found, "layer", "token") == {(i, t) for i in plant.locked_layers for t in sinks}
    assert (found["kind"] == np.where(found["token"] == 0, "bos", "intermediate")).all()
    assert found["massive_entering"].all()
    heads = ss.sink_heads(record, threshold=0.25)
    locked = heads[heads["sink"] & (heads["layer"] > plant.layer)]
    assert cells(locked, "layer", "head") == {
        (layer, head) for layer in plant.locked_layers for head in plant.heads
    }


def check_massive(plant: Planted, record: Record, sinks: tuple[int, ...] = SINKS) -> None:
    """The triggers hold the features, from the block that writes them to the one that removes."""
    found = ss.find_massive_activations(record)
    assert cells(found, "token", "feature") == {(t, f) for t in sinks for f in plant.features}
    spans = cells(found, "first_layer", "last_layer")
    assert spans == {(plant.layer, plant.last_layer)}
    assert cells(found, "layer") == {(i,) for i in range(plant.layer, plant.last_layer + 1)}
    assert massive_features(found)["same"].all()
    for feature, value in zip(plant.features, plant.plan.values, strict=True):
        written = found[found["feature"] == feature]
        assert np.allclose(written.loc[written["token"] == 0, "value"], value, rtol=0.05)
        others = written.loc[written["token"] != 0, "value"]
        assert np.allclose(others, value * plant.plan.trigger_share, rtol=0.15)


def check_neurons(plant: Planted, record: Record, sinks: tuple[int, ...] = SINKS) -> None:
    """Of all neurons of the block, the planted one adds nearly all; elsewhere nothing is added."""
    neurons = plant.plan.neurons
    for place, (feature, value) in enumerate(zip(plant.features, plant.plan.values, strict=True)):
        added = contributions(plant, record, plant.layer, feature)[list(sinks)]
        share = added[:, neurons[place % len(neurons)]] / added.sum(-1)
        assert (np.abs(added).argmax(-1) == neurons[place % len(neurons)]).all()
        assert share.min() > 0.999
        assert np.allclose(added[0].sum(), value, rtol=0.05)
        for layer in set(range(5)) - {plant.layer, plant.plan.removed_layer}:
            assert not contributions(plant, record, layer, feature).any()


def check_removal(plant: Planted, record: Record) -> None:
    """The remover fires on the triggers alone, and takes away what was written."""
    removed, neuron = plant.plan.removed_layer, plant.plan.remover
    others = np.setdiff1d(np.arange(TOKENS), SINKS)
    for feature, value in zip(plant.features, plant.plan.values, strict=True):
        added = contributions(plant, record, removed, feature)[list(SINKS)]
        assert (np.abs(added).argmax(-1) == neuron).all()
        assert np.allclose(added[:, neuron], -value, rtol=1e-3)
        assert np.abs(record["resid_post"][0, removed, :, feature]).max() < 0.1
    assert np.abs(record["mlp_act"][0, removed, others, neuron]).max() < 1e-4


def check_bookkeeping(record: Record) -> None:
    """Also with values in the thousands, the parts make the stream."""
    added = (record["attn_out"] + record["mlp_out"]).values
    wanted = (record["resid_post"] - record["resid_pre"]).values
    largest = np.abs(record["resid_post"]).max(("token", "feature")).values[..., None, None]
    assert (np.abs(added - wanted) <= 1e-5 * largest).all()


def check_nothing_without_triggers(plant: Planted) -> None:
    record = seen(plant, sinks=())
    assert ss.find_sinks(record).empty
    found = ss.find_massive_activations(record)
    outlier = plant.plan.constant_outlier
    assert set(found["feature"]) == (set() if outlier is None else {outlier})


VARIANTS: dict[str, dict[str, Any]] = {
    "one key-value head a head": {"grouped": False},
    "two features": {"features": (37, 12), "values": (3000.0, -1500.0)},
    "two neurons": {"features": (37, 12), "values": (-3000.0, 1500.0), "neurons": (11, 40)},
    "late": {"layer": 2, "features": (5,), "neurons": (90,)},
    "half as much on others": {"trigger_share": 0.5},
    "removed": {"removed_layer": 3},
    "two removed": {"features": (37, 12), "values": (-3000.0, 2000.0), "removed_layer": 4},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_the_llama(name: str) -> None:
    plant = planted(**{"heads": ENOUGH_HEADS} | VARIANTS[name])
    record = seen(plant)
    check_sinks(plant, record)
    check_massive(plant, record)
    check_neurons(plant, record)
    check_bookkeeping(record)
    if plant.plan.removed_layer is not None:
        check_removal(plant, record)
    check_nothing_without_triggers(plant)


def test_born_in_attention() -> None:
    plant = planted(heads=ENOUGH_HEADS, born_in="attention", removed_layer=4)
    assert plant.neuron is None
    record = seen(plant)
    check_sinks(plant, record)
    check_massive(plant, record)
    check_removal(plant, record)
    check_bookkeeping(record)
    check_nothing_without_triggers(plant)
    others = np.setdiff1d(np.arange(TOKENS), SINKS)
    attention = record["attn_out"][0, plant.layer, :, plant.feature].values
    assert np.allclose(attention[list(SINKS)], plant.magnitude, rtol=0.05)
    assert np.abs(attention[others]).max() < 1e-3
    assert not record["mlp_out"][0, plant.layer, :, plant.feature].any()


def test_a_neuron_that_fires_more_and_writes_nothing() -> None:
    plant = planted(heads=ENOUGH_HEADS, decoy_neuron=20)
    record = seen(plant)
    check_sinks(plant, record)
    check_massive(plant, record)
    check_neurons(plant, record)
    acts = np.abs(record["mlp_act"][0, plant.layer].values[list(SINKS)])
    assert (acts.argmax(-1) == 20).all(), "a ranking by activation alone is misled"
    assert (acts[:, 20] > 3.9 * acts[:, plant.neuron]).all()
    added = contributions(plant, record, plant.layer, plant.feature)
    assert not added[:, 20].any()


@pytest.mark.parametrize("outlier", [900.0, -1500.0])
def test_a_feature_that_is_large_everywhere(outlier: float) -> None:
    plant = planted(heads=ENOUGH_HEADS, constant_outlier=44, outlier_value=outlier)
    record = seen(plant)
    check_sinks(plant, record)
    check_neurons(plant, record)
    found = ss.find_massive_activations(record)
    tokens = {feature: cells(found[found["feature"] == feature], "token") for feature in (37, 44)}
    assert set(found["feature"]) == {37, 44}
    assert tokens[37] == {(t,) for t in SINKS}
    assert len(tokens[44]) == TOKENS, "3 of 60: as a sign of a sink it is right once in 20"
    assert set(found["layer"]) == {1, 2, 3, 4}
    blamed = contributions(plant, record, plant.layer, plant.feature)[:, plant.plan.outlier_neuron]
    assert not blamed.any()
    acts = record["mlp_act"][0, plant.layer, :, plant.plan.outlier_neuron].values
    assert acts.min() > 1, "its neuron fires on every token"
    check_bookkeeping(record)
    check_nothing_without_triggers(plant)


DECOY_ID, DECOYS = 3, (15, 31)


def test_a_twin_of_bos_that_is_no_sink() -> None:
    plant = planted(heads=ENOUGH_HEADS, cosine_decoy=DECOY_ID)
    record = seen(plant, decoys=DECOYS)
    check_sinks(plant, record)
    massive = range(plant.layer, 5)
    found = twins(record)
    wanted = {(layer, t) for layer in massive for t in (*SINKS[1:], *DECOYS)}
    assert cells(found, "layer", "token") == wanted
    true = found[found["is_sink"]]
    assert cells(true, "layer", "token") == {(i, t) for i in plant.locked_layers for t in (7, 23)}
    decoys = found[found["token"].isin(DECOYS)]
    assert decoys["cosine"].between(0.85, 0.87).all()
    locked = record["segment_sum"].sum("segment") / record["queries"].sum("segment")
    heads = locked[0].sel(layer=list(plant.locked_layers)).values[:, list(plant.heads)]
    assert heads[..., list(DECOYS)].max() < 0.01


def test_what_the_decoy_lacks_is_only_that_heads_turn_from_its_shadow() -> None:
    """Its massive features are those of the sinks and one more."""
    plant = planted(heads=ENOUGH_HEADS, cosine_decoy=DECOY_ID)
    record = seen(plant, decoys=DECOYS)
    sets = massive_features(record)
    shadow = plant.plan.shadow_feature
    for token, features in zip(sets["token"], sets["features"], strict=True):
        assert features == ((37, shadow) if token in DECOYS else (37,))
    assert ss.find_sinks(seen(plant, sinks=(), decoys=DECOYS)).empty
    for block in plant.blocks[plant.layer + 1 :]:
        block.key[:, :, shadow] = 0
    freed = ss.find_sinks(seen(plant, sinks=(), decoys=DECOYS))
    assert cells(freed, "layer", "token") == {
        (layer, token) for layer in plant.locked_layers for token in DECOYS
    }


def test_before_anything_is_massive_there_is_no_twin() -> None:
    plant = planted(layer=2)
    cosine = bos_similarity(seen(plant)).set_index(["layer", "token"])["cosine"]
    assert cosine.loc[[0, 1]].drop(0, level="token").max() < 0.8
    assert cosine.loc[(2, 7)] > 0.999


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match="sizes do not fit"):
        planted(features=(1, 2))
    with pytest.raises(ValueError, match="one set of values"):
        planted(removed_layer=3, trigger_share=0.5)
