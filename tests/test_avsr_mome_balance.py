"""What routers decide in a forward, and the loss that keeps experts in use: by hand."""

from dataclasses import replace

import pytest
import torch

from sinkscope.avsr.mome import MomeSettings, balance_loss, hold_routing, mixtures
from sinkscope.errors import InputError
from sinkscope.subjects.mome import attach_mome
from tests.families import build

SMALL = MomeSettings(routed=6, top_k=2, shared=1, bottleneck=3)


def routed(**changes: object) -> tuple[torch.nn.Module, MomeSettings]:
    """A random Llama with routers that differ."""
    settings = replace(SMALL, **changes)
    model = attach_mome(build("llama"), settings)
    for _, mixture in mixtures(model):
        torch.nn.init.normal_(mixture.router.weight)
    return model, settings


def padded() -> dict[str, torch.Tensor]:
    """Two samples, the second of which is shorter."""
    ids = torch.randint(3, 97, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("over", ["step", "forward", "sequence"])
@pytest.mark.parametrize("form", ["switch", "mixtral"])
def test_balance_loss_by_hand(over: str, form: str) -> None:
    model, settings = routed(balance_over=over, balance=form, balance_weight=1.0, z_weight=0.1)
    batch = padded()
    other = {"input_ids": batch["input_ids"][:1, :5]}
    with hold_routing(model) as held:
        model(**batch)
        model(**other)
        found = balance_loss(held, settings)
        layers = []
        for layer in range(2):
            rows = [
                [part[0] for part in held[0].layers[layer]],
                [part[1, :4] for part in held[0].layers[layer]],
                [part[0] for part in held[1].layers[layer]],
            ]
            groups = {
                "step": [rows],
                "forward": [rows[:2], rows[2:]],
                "sequence": [[r] for r in rows],
            }
            terms = []
            for group in groups[over]:
                logits, probabilities, _ = (torch.cat(parts) for parts in zip(*group, strict=True))
                total = torch.zeros(())
                for expert in range(settings.routed):
                    best = logits.argsort(dim=-1, descending=True)[:, : settings.top_k]
                    share = (best == expert).any(dim=-1).float().mean()
                    total = total + share * probabilities[:, expert].mean()
                total = total * settings.routed
                if form == "switch":
                    total = total / settings.top_k
                z = logits.exp().sum(dim=-1).log().square().mean()
                terms.append(total + 0.1 * z)
            layers.append(torch.stack(terms).mean())
        torch.testing.assert_close(found, torch.stack(layers).mean())


def test_balanced_routing_gives_one_and_collapse_gives_more() -> None:
    model, settings = routed(balance_weight=1.0)
    with torch.no_grad():
        for _, mixture in mixtures(model):
            mixture.router.weight.zero_()
        with hold_routing(model) as held:
            model(**padded())
            level = balance_loss(held, settings)
        for _, mixture in mixtures(model):
            mixture.router.weight.normal_(std=5.0)
        with hold_routing(model) as held:
            model(**padded())
            uneven = balance_loss(held, settings)
    torch.testing.assert_close(level, torch.ones(()))
    assert uneven > 1.2


def test_padding_counts_only_where_it_is_asked_for() -> None:
    values = {}
    for counts in (False, True):
        model, settings = routed(balance_weight=1.0, balance_padding=counts)
        torch.manual_seed(3)
        for _, mixture in mixtures(model):
            torch.nn.init.normal_(mixture.router.weight)
        for filler in (5, 60):
            batch = padded()
            batch["input_ids"][1, 4:] = filler
            with hold_routing(model) as held:
                model(**batch)
                values[counts, filler] = balance_loss(held, settings).item()
    assert values[False, 5] == values[False, 60]
    assert values[True, 5] != values[True, 60]


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
def test_routing_of_checkpointed_blocks(reentrant: bool) -> None:
    """Gradients are those of blocks that are not checkpointed; where they are lost, it is said."""
    model, settings = routed(balance_weight=1.0)
    gradients = []
    for checkpointed in (False, True):
        model.train()
        model.zero_grad()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        with hold_routing(model) as held:
            if checkpointed and reentrant:
                model.enable_input_require_grads()
                with pytest.raises(InputError, match="use_reentrant=False"):
                    model(**padded())
                return
            model(**padded())
            balance_loss(held, settings).backward()
            assert len(held) == 1
            assert len(held[0].layers) == 2
        gradients.append([m.router.weight.grad.clone() for _, m in mixtures(model)])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_hooks_are_gone_after_an_exception() -> None:
    model, _ = routed()
    before = [len(m.gate._forward_hooks) for _, m in mixtures(model)]
    with pytest.raises(IndexError), hold_routing(model):
        model(torch.full((1, 3), 10**6))
    assert [len(m.gate._forward_hooks) for _, m in mixtures(model)] == before
