"""Which tokens of the LLM a small part of the input reaches: what a layout must agree with."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn

import sinkscope as ss
from tests.adapters.suite import received


def without_attention(model: nn.Module, *projections: str) -> nn.Module:
    """A copy whose encoders' attention adds nothing, so that what enters stays where it is.

    Args:
        model: a composite.
        projections: how the names of the modules end that project what attention adds.
    """
    copy = deepcopy(model)
    cut = [module for name, module in copy.named_modules() if name.endswith(projections)]
    assert cut
    with torch.no_grad():
        for module in cut:
            for parameter in module.parameters():
                parameter.zero_()
    return copy


def entrance(model: nn.Module, inputs: dict[str, Any], *, encoder: str = "") -> torch.Tensor:
    """The states that enter the first block of the LLM, or of an encoder.

    They are ``(sample, token, feature)``; a sequence without samples is one sample.
    """
    subject: Any = ss.load(model)
    with received(subject.encoder(encoder) if encoder else subject) as found, torch.no_grad():
        model(**inputs)
    return found[0][None] if found[0].ndim == 2 else found[0]


def reached(
    model: nn.Module,
    inputs: dict[str, Any],
    name: str,
    places: Sequence[tuple[Any, ...]],
    *,
    by: float = 1.0,
    encoder: str = "",
) -> list[list[tuple[int, int]]]:
    """Sample and token of what changes at the entrance of the LLM, for each change of the input.

    With ``encoder`` at the entrance of that encoder.

    Args:
        model: a composite.
        inputs: the arguments of its forward.
        name: the argument to change.
        places: of each change, the index of the entries of it that are moved.
        by: how far.
        encoder: of which stream; "" for the LLM.
    """
    before, found = entrance(model, inputs, encoder=encoder), []
    for place in places:
        moved = inputs[name].clone()
        moved[place] += by
        changed = (before != entrance(model, inputs | {name: moved}, encoder=encoder)).any(-1)
        found.append([(int(i), int(j)) for i, j in changed.nonzero().tolist()])
    return found


def tokens_at(
    layouts: Any, stream: str, item: int, *, second: float | None = None, **patch: int
) -> list[tuple[int, int]]:
    """Sample and place of a stream's tokens that cover a time, or a patch, of an item."""
    found = []
    for sample, layout in enumerate(layouts):
        here = layout.mask(stream) & (layout.descriptors["item"] == item)
        if second is not None:
            here &= (layout.seconds[:, 0] <= second) & (second < layout.seconds[:, 1])
        for axis, value in patch.items():
            here &= layout.descriptors[axis] == value
        found += [(sample, int(place)) for place in np.flatnonzero(here)]
    return found
