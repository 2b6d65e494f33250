"""What analysis makes of a recorded router is what the mixture did, for every way to its gates."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.analysis.routing import routed_tokens
from sinkscope.avsr.mome import MomeSettings, balance_loss, hold_routing
from tests.families import batch
from tests.test_subjects_experts import SMALL, with_experts

WAYS = {
    "default": {},
    "not renormalised": {"renormalise": False},
    "selected": {"softmax": "selected"},
    "selected, not renormalised": {"softmax": "selected", "renormalise": False},
    "three": {"top_k": 3},
    "all": {"top_k": 6},
    "router bias": {"router_bias": True},
}


@pytest.mark.parametrize("name", WAYS)
def test_gates_of_a_record_are_those_of_the_forward(name: str) -> None:
    model = with_experts("llama", **WAYS[name])
    inputs = batch("left")
    with hold_routing(model) as held:
        record = ss.record(model, **inputs)
        routings = [[part.clone() for part in one] for one in held[0].layers]
        mask = held[0].mask
    assert mask is not None
    routed = routed_tokens(record)
    for layer, (_, probabilities, gates) in enumerate(routings):
        for sample, length in enumerate(record["length"].values):
            own = gates[sample][mask[sample]].numpy()
            assert np.allclose(routed.gates[sample, layer, :length], own, atol=1e-6)
            assert (routed.chosen[sample, layer, :length] == (own > 0)).all()
            known = probabilities[sample][mask[sample]].numpy()
            assert np.allclose(routed.probabilities[sample, layer, :length], known, atol=1e-6)


@pytest.mark.parametrize("top_k", [1, 2, 6])
def test_balance_is_that_of_the_loss(top_k: int) -> None:
    """With weight 1 the loss is the mean over layers of the balance of all real tokens."""
    model, inputs = with_experts("llama", top_k=top_k), batch("right")
    settings: MomeSettings = replace(SMALL, top_k=top_k, balance_weight=1.0)
    with hold_routing(model) as held, torch.no_grad():
        model(**inputs)
        loss = float(balance_loss(held, settings))
    table = ss.expert_balance(ss.record(model, **inputs))
    whole = table.loc[table["segment"] == "all", "balance"]
    assert float(whole.mean()) == pytest.approx(loss, rel=1e-5)


def test_a_saved_record_knows_its_experts(tmp_path) -> None:  # type: ignore[no-untyped-def]
    record = ss.record(with_experts("llama"), **batch("left"))
    again = ss.Record.open(record.save(tmp_path / "record"))
    assert ss.expert_usage(again).equals(ss.expert_usage(record))
    parts = ss.merge([record.sample(i) for i in range(3)])
    assert ss.expert_usage(parts).equals(ss.expert_usage(record))
