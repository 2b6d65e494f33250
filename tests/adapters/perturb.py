"""Which tokens a change of the input changes where the LLM begins: an account of the layout.

With an encoder's attention silenced, what it makes of a place in a picture, a film or a sound stays
at that place, so that exactly the tokens that cover it change.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import sinkscope as ss
from tests.adapters.suite import received


@contextmanager
def silenced(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While open, these modules have weights and biases of 0."""
    kept = [(one, one.detach().clone()) for module in modules for one in module.parameters()]
    try:
        with torch.no_grad():
            for parameter, _ in kept:
                parameter.zero_()
        yield
    finally:
        with torch.no_grad():
            for parameter, own in kept:
                parameter.copy_(own)


def entrance(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """The states that enter the LLM: (sample, token, feature)."""
    with received(ss.load(model)) as states, torch.no_grad():
        model(**inputs)
    return states[0]


def touched(model: nn.Module, before: Mapping[str, Any], after: Mapping[str, Any]) -> np.ndarray:
    """Which tokens differ where the LLM begins: (sample, token)."""
    return (entrance(model, before) != entrance(model, after)).any(-1).numpy()


def covering(
    layout: ss.TokenLayout,
    segment: str,
    *,
    item: int = 0,
    row: int | None = None,
    column: int | None = None,
    second: float | None = None,
    view: int | None = None,
) -> np.ndarray:
    """Which tokens a layout says to cover a place."""
    found = layout.mask(segment) & (layout.descriptors["item"] == item)
    for name, value in (("row", row), ("column", column), ("view", view)):
        if value is not None:
            found &= layout.descriptors[name] == value
    if second is not None:
        found &= (layout.seconds[:, 0] <= second) & (second < layout.seconds[:, 1])
    return found
