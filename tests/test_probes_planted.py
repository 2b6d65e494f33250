"""What was planted is recorded where it was planted, and nowhere else."""

import numpy as np
import pytest

import sinkscope as ss
from tests.planted import planted

SINKS = [0, 7, 23]


@pytest.fixture(scope="module", params=[True, False], ids=["grouped", "not grouped"])
def seen(request):
    plant = planted(grouped=request.param)
    ids = plant.ids(60, sinks=SINKS)
    return plant, ss.record(plant.model, input_ids=ids, keep=["mlp_act", "pattern"])


def test_the_massive_feature(seen) -> None:
    plant, record = seen
    others = np.setdiff1d(np.arange(60), SINKS)
    for layer in record.layers:
        value = record["top_value"][0, layer, :, 0].values
        ratio = np.abs(value) / record["median"][0, layer].values
        if layer < plant.layer:
            assert ratio.max() < 100
            continue
        assert (record["top_feature"][0, layer, SINKS, 0] == plant.feature).all()
        assert np.allclose(value[SINKS], plant.magnitude, rtol=0.5)
        assert ratio[SINKS].min() > 1000
        assert ratio[others].max() < 100
    top = record["mlp_out_top_feature"][0, plant.layer, :3]
    assert (top == plant.feature).all()
    assert sorted(record["mlp_out_top_token"][0, plant.layer, :3].values) == SINKS


def test_the_neuron(seen) -> None:
    plant, record = seen
    acts = np.abs(record["mlp_act"][0, plant.layer].values)
    assert (acts[SINKS].argmax(-1) == plant.neuron).all()
    others = np.setdiff1d(np.arange(60), SINKS)
    assert acts[others, plant.neuron].max() < 1e-6


def test_the_heads_that_lock(seen) -> None:
    plant, record = seen
    alpha = record["segment_sum"][0].sum("segment") / record["queries"][0].sum("segment")
    free = np.setdiff1d(np.arange(8), plant.heads)
    for layer in record.layers:
        one = alpha.sel(layer=layer).values
        if layer in plant.locked_layers:
            assert one[list(plant.heads)][:, SINKS].min() > 0.3
            assert record["entropy"][0, layer, list(plant.heads), 30:].max() < 1.3
        else:
            assert one[:, SINKS[1:]].max() < 0.2
        assert one[free][:, SINKS[1:]].max() < 0.2
        assert record["entropy"][0, layer, free, 30:].min() > 2


def test_twins_of_bos_and_drained_values(seen) -> None:
    plant, record = seen
    others = np.setdiff1d(np.arange(60), SINKS)
    for layer in range(plant.layer, 5):
        cosine = record["bos_cosine"][0, layer].values
        assert cosine[SINKS].min() > 0.99
        assert cosine[others].max() < 0.5
    for layer in plant.locked_layers:
        norms = record["value_norm"][0, layer].values
        assert norms[:, SINKS].max() < 0.2 * np.median(norms[:, others])


def test_without_triggers_there_is_nothing() -> None:
    plant = planted()
    record = ss.record(plant.model, input_ids=plant.ids(60, sinks=[]))
    alpha = record["segment_sum"][0].sum("segment") / record["queries"][0].sum("segment")
    assert alpha[:, :, 8:50].max() < 0.2
    assert (np.abs(record["top_value"][0]).max(("token", "rank")) < 100 * record["median"][0]).all()
