"""What reaches the LLM when an encoder's blocks add nothing, so that it is local."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

import sinkscope as ss
from tests.adapters.suite import received


def entrance(
    model: nn.Module, given: dict[str, Any], blocks: Sequence[nn.Module] = ()
) -> torch.Tensor:
    """The states ``(sample, token, feature)`` that enter the LLM of a composite.

    Args:
        model: the composite.
        given: the arguments of its forward.
        blocks: the encoder's, which are passed over; by default those of ``audio_tower``.
    """
    subject = ss.load(model)
    inner: Any = model
    passed = passed_over(blocks or inner.model.audio_tower.layers)
    with received(subject) as states, torch.no_grad(), passed:
        inner(**given)
    return states[0]


@contextmanager
def passed_over(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """The blocks of an encoder add nothing while this is open."""

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
