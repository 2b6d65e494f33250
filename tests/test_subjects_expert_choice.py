"""Which experts a token gets: those that the model chose, also where probabilities are equal."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import sinkscope as ss
from sinkscope.analysis.routing import routed_tokens
from sinkscope.avsr.mome import MomeSettings, hold_routing
from sinkscope.avsr.mome.experts import Gate
from sinkscope.errors import InputError
from sinkscope.subjects.anatomy import anatomy_of
from sinkscope.subjects.running import model_hash
from tests.families import batch
from tests.planted_rates import rate_record
from tests.test_subjects_experts import with_experts

SMALL = MomeSettings(routed=6, top_k=2, bottleneck=3)


def hash_of(model: nn.Module) -> str:
    return model_hash(model, anatomy_of(model))


def test_of_equal_logits_the_first_win() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 3.0, 2.0, 3.0], [0.0] * 6])
    for softmax in ("all", "selected"):
        gate = Gate(MomeSettings(routed=6, top_k=2, softmax=softmax))
        for kind in (torch.float32, torch.bfloat16, torch.float64):
            chosen = gate(logits.to(kind)).gates.nonzero().tolist()
            assert chosen == [[0, 1], [0, 2], [1, 0], [1, 1]]


def test_a_choice_has_the_gradient_that_topk_has() -> None:
    logits = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(7, 6, dtype=torch.float64)
    kept = logits.softmax(-1).topk(2)
    wanted = torch.zeros_like(logits).scatter(
        -1, kept.indices, kept.values / kept.values.sum(-1, keepdim=True)
    )
    found = Gate(SMALL)(logits).gates
    torch.testing.assert_close(found, wanted)
    own = torch.autograd.grad((found * weights).sum(), logits)[0]
    torch.testing.assert_close(own, torch.autograd.grad((wanted * weights).sum(), logits)[0])


@pytest.mark.parametrize("softmax", ["all", "selected"])
@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_analysis_takes_the_experts_that_the_model_chose(kind: str, softmax: str) -> None:
    """Routers with few different rows give ties at the edge of the chosen ones, token by token."""
    model = with_experts("llama", top_k=3, softmax=softmax)
    for block in anatomy_of(model).blocks:
        router = block.mome.router.weight.data  # type: ignore[union-attr]
        router[[1, 4]], router[5] = router[[2, 2]], router[0]
    model = model.to(getattr(torch, kind))
    with hold_routing(model) as held:
        record = ss.record(model, **batch())
        layers = [layer for forward in held for layer in forward.layers]
        own = np.stack([layer.gates.float().numpy() for layer in layers], 1)
        logits = layers[0].logits
    routed = routed_tokens(record)
    edge = logits.sort(dim=-1, descending=True).values
    assert (edge[..., 2] == edge[..., 3]).float().mean() > 0.2
    assert np.array_equal(routed.chosen, own > 0)
    np.testing.assert_allclose(routed.gates, own, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{"top_k": 3}, {"placement": "layer"}, {"scale": 0.5}, {"renormalise": False}],
    ids=str,
)
def test_models_of_equal_weights_and_other_settings_are_two(changes: Mapping) -> None:
    one, other = with_experts("llama"), with_experts("llama", **changes)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name])
    assert hash_of(one) == hash_of(with_experts("llama")) != hash_of(other)
    records = [ss.record(model, **batch()) for model in (one, other)]
    with pytest.raises(InputError, match="differ in model_hash"):
        ss.merge(records)


def test_records_of_two_models_are_not_compared_as_rates() -> None:
    one, other = (hash_of(with_experts("llama", top_k=k)) for k in (1, 3))
    records = {pair: rate_record(pair) for pair in ((4, 2), (16, 5))}
    for record, own in zip(records.values(), (one, other), strict=True):
        record.provenance["model_hash"] = own  # type: ignore[index]
    with pytest.raises(InputError, match="differ in model_hash"):
        ss.sinks_by_rate(records)


def test_blocks_with_mixtures_of_other_settings_are_refused() -> None:
    model = with_experts("llama")
    mixture = anatomy_of(model).blocks[1].mome
    mixture.settings = replace(mixture.settings, top_k=3)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="differ in their settings from block to block"):
        ss.record(model, **batch())
