"""The plant is recovered in every kind of block: parallel, ungated, post-normed, scaled."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import sinkscope as ss
from tests.planted import Planted
from tests.planted_variants import (
    PARALLEL,
    UNGATED,
    planted_gelu,
    planted_parallel,
    planted_sandwich,
    planted_scaled,
)
from tests.test_planted_variants import (
    ENOUGH_HEADS,
    SINKS,
    check_bookkeeping,
    check_massive,
    check_neurons,
    check_nothing_without_triggers,
    check_removal,
    check_sinks,
    contributions,
    seen,
)

FAMILIES: dict[str, Callable[..., Planted]] = {
    **{name: partial(planted_gelu, name) for name in UNGATED},
    **{name: partial(planted_parallel, name) for name in PARALLEL},
    "granite": planted_scaled,
}
TWO: dict[str, Any] = {"features": (37, 12), "values": (-3000.0, 2000.0), "removed_layer": 4}


@pytest.mark.parametrize("options", [{}, TWO], ids=["one", "two removed"])
@pytest.mark.parametrize("name", FAMILIES)
def test_families(name: str, options: dict[str, Any]) -> None:
    plant = FAMILIES[name](heads=ENOUGH_HEADS, **options)
    record = seen(plant)
    check_sinks(plant, record)
    check_massive(plant, record)
    check_neurons(plant, record)
    check_bookkeeping(record)
    if options:
        check_removal(plant, record)
    check_nothing_without_triggers(plant)


@pytest.mark.parametrize("options", [{}, TWO], ids=["one", "two removed"])
def test_sandwich(options: dict[str, Any]) -> None:
    plant = planted_sandwich(heads=ENOUGH_HEADS, **options)
    record = seen(plant)
    check_sinks(plant, record)
    check_massive(plant, record)
    check_bookkeeping(record)
    check_nothing_without_triggers(plant)
    others = np.setdiff1d(np.arange(60), SINKS)
    for feature, value in zip(plant.features, plant.plan.values, strict=True):
        added = record["mlp_out"][0, plant.layer, :, feature].values
        assert np.allclose(added[list(SINKS)], value, rtol=1e-3)
        assert not added[others].any()
        raw = contributions(plant, record, plant.layer, feature)[list(SINKS)]
        assert (np.abs(raw).argmax(-1) == plant.neuron).all()
        assert np.allclose(raw[:, plant.neuron] / raw.sum(-1), 1, atol=1e-4)
        if plant.plan.removed_layer is not None:
            left = record["resid_post"][0, plant.plan.removed_layer, :, feature]
            assert np.abs(left).max() < 0.1


def test_the_sum_before_the_norm_is_not_what_is_added() -> None:
    """A post-norm rescales, so that a bookkeeping of raw contributions does not close."""
    plant = planted_sandwich(values=(3000.0,))
    block = plant.blocks[plant.layer]
    block.down[:, plant.neuron] *= 0.5
    record = seen(plant)
    raw = contributions(plant, record, plant.layer, plant.feature)[0].sum()
    added = record["mlp_out"][0, plant.layer, 0, plant.feature].item()
    assert raw == pytest.approx(1500, rel=0.05)
    assert added == pytest.approx(3000, rel=1e-3)


def test_what_survives_no_post_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="trigger_share"):
        planted_sandwich(trigger_share=0.5)
    with pytest.raises(ValueError, match="not one of"):
        planted_gelu("llama")


@pytest.mark.parametrize("name", ["gpt2", "stablelm", "granite"])
def test_without_the_neuron_there_is_nothing(name: str) -> None:
    """The cause is where it was planted: a column of zeros there, and none elsewhere, ends it."""
    plant = FAMILIES[name](heads=ENOUGH_HEADS)
    control = plant.neuron + 1
    for neuron, gone in ((control, False), (plant.neuron, True)):
        plant.blocks[plant.layer].down[:, neuron] = 0
        record = seen(plant)
        assert ss.find_sinks(record).empty == gone
        assert ss.find_massive_activations(record).empty == gone


@pytest.mark.parametrize("name", ["opt", "stablelm"])
def test_decoys_in_other_families(name: str) -> None:
    plant = FAMILIES[name](heads=ENOUGH_HEADS, decoy_neuron=20, cosine_decoy=3)
    record = seen(plant, decoys=(15,))
    check_sinks(plant, record)
    check_neurons(plant, record)
    acts = np.abs(record["mlp_act"][0, plant.layer].values[list(SINKS)])
    assert (acts.argmax(-1) == 20).all()
    cosine = record["bos_cosine"][0, plant.layer].values
    assert cosine[15] == pytest.approx(1 / np.sqrt(1.36), abs=0.01)


def test_born_in_attention_beside_a_parallel_mlp() -> None:
    plant = planted_parallel(heads=ENOUGH_HEADS, born_in="attention")
    record = seen(plant)
    check_sinks(plant, record)
    check_massive(plant, record)
    assert not record["mlp_out"][0, plant.layer, :, plant.feature].any()
