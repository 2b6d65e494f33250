"""A mixture of experts as the formula is written: one token, one expert at a time."""

import torch
from torch import Tensor
from torch.nn import functional

from sinkscope.avsr.mome import Mome

__all__ = ["one_by_one"]


def one_by_one(mixture: Mome, states: Tensor, routed_by: Tensor) -> Tensor:
    """What `Mome` gives for states (token, feature), by loops."""
    return torch.stack([_token(mixture, s, r) for s, r in zip(states, routed_by, strict=True)])


def _token(mixture: Mome, state: Tensor, routed_by: Tensor) -> Tensor:
    own = mixture.settings
    total = torch.zeros_like(state)
    for number in range(own.shared):
        total = total + _expert(mixture, number, state)
    for number, gate in _gates(mixture, routed_by).items():
        total = total + gate * _expert(mixture, own.shared + number, state)
    return own.scale * total


def _gates(mixture: Mome, routed_by: Tensor) -> dict[int, Tensor]:
    own = mixture.settings
    if not own.routed:
        return {}
    logits = mixture.router.weight @ routed_by
    if mixture.router.bias is not None:
        logits = logits + mixture.router.bias
    order = sorted(range(own.routed), key=lambda n: -float(logits[n].detach()))
    order = order[: own.top_k]
    if own.softmax == "selected":
        total = sum(logits[number].exp() for number in order)
        return {number: logits[number].exp() / total for number in order}
    every = sum(logit.exp() for logit in logits)
    gates = {number: logits[number].exp() / every for number in order}
    if own.renormalise:
        total = sum(gates.values())
        gates = {number: gate / total for number, gate in gates.items()}
    return gates


def _expert(mixture: Mome, number: int, state: Tensor) -> Tensor:
    hidden = mixture.down[number] @ state
    if mixture.down_bias is not None:
        hidden = hidden + mixture.down_bias[number]
    out = functional.gelu(hidden) @ mixture.up[number]
    return out if mixture.up_bias is None else out + mixture.up_bias[number]
