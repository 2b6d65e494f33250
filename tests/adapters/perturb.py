"""Which tokens a change of the input changes where the LLM begins: an account of the layout.

With an encoder's attention silenced, or its blocks passed over, what it makes of a place in a
picture, a film or a sound stays at that place, so that exactly the tokens that cover it change.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import sinkscope as ss

Token = tuple[int, int]
"""Sample and place of a token."""


@dataclass(frozen=True)
class Place:
    """A part of the input, and where it is.

    Attributes:
        features: the argument of the forward that holds it.
        index: its entries.
        stream: what it is a part of.
        at: item, seconds and row, column, view of it, as `covering` takes them.
    """

    features: str
    index: tuple[Any, ...]
    stream: str
    at: dict[str, Any]


@contextmanager
def received(subject: Any) -> Iterator[list[Tensor]]:
    """The states that enter the first block of a subject in each forward."""
    found: list[Tensor] = []

    def see(module: nn.Module, args: tuple, kwargs: dict) -> None:
        found.append((args[0] if args else kwargs["hidden_states"]).detach().clone())

    handle = subject.anatomy.blocks[0].register_forward_pre_hook(see, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


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


@contextmanager
def passed_over(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """While open, these blocks of an encoder add nothing."""

    def through(block: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handles = [
        block.register_forward_hook(through, with_kwargs=True, prepend=True) for block in blocks
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def without_attention(model: nn.Module, *projections: str) -> nn.Module:
    """A copy whose encoders' attention adds nothing, for good.

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


def entrance(model: nn.Module, inputs: Mapping[str, Any], *, encoder: str = "") -> Tensor:
    """The states ``(sample, token, feature)`` that enter the LLM, or the encoder of a stream.

    A sequence without samples is one sample.
    """
    subject: Any = ss.load(model)
    with received(subject.encoder(encoder) if encoder else subject) as found, torch.no_grad():
        model(**inputs)
    return found[0][None] if found[0].ndim == 2 else found[0]


def touched(
    model: nn.Module, before: Mapping[str, Any], after: Mapping[str, Any], *, encoder: str = ""
) -> np.ndarray:
    """Which tokens (sample, token) differ where the LLM begins, or the encoder of a stream."""
    states = (entrance(model, inputs, encoder=encoder) for inputs in (before, after))
    return torch.ne(*states).any(-1).numpy()


def reached(
    model: nn.Module,
    inputs: Mapping[str, Any],
    name: str,
    places: Sequence[tuple[Any, ...]],
    *,
    encoder: str = "",
) -> list[list[Token]]:
    """The tokens that each of several changes of the input touches.

    Args:
        model: a composite.
        inputs: the arguments of its forward.
        name: the argument to change.
        places: of each change, the index of the entries of it that are raised by 1.
        encoder: of which stream to look at the entrance; "" for the LLM.
    """
    found = []
    for place in places:
        moved = inputs[name].clone()
        moved[place] += 1
        changed = touched(model, inputs, {**inputs, name: moved}, encoder=encoder)
        found.append([(int(i), int(j)) for i, j in np.argwhere(changed)])
    return found


def covering(
    layout: ss.TokenLayout,
    segment: str,
    *,
    item: int = 0,
    second: float | None = None,
    **place: float | None,
) -> np.ndarray:
    """Which tokens a layout says to cover a time and a place (row, column, view) of an item."""
    found = layout.mask(segment)
    if not found.any():
        return found
    found &= layout.descriptors["item"] == item
    for name, value in place.items():
        if value is not None:
            found &= layout.descriptors[name] == value
    if second is not None:
        found &= (layout.seconds[:, 0] <= second) & (second < layout.seconds[:, 1])
    return found


def tokens_at(
    layouts: Iterable[ss.TokenLayout], segment: str, item: int, **place: float | None
) -> list[Token]:
    """The tokens of several samples that cover a time and a place."""
    return [
        (sample, int(token))
        for sample, layout in enumerate(layouts)
        for token in np.flatnonzero(covering(layout, segment, item=item, **place))
    ]
