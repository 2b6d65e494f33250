"""What a composite is called with, by name, also where ``generate`` calls it."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["announced", "arguments", "following", "fresh_positions", "is_announced", "takes"]

Arguments = dict[str, Any]

_DELTAS = "rope_deltas"

_announced: list[nn.Module] = []


def arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
    """What a module is called with, by name, without what is None."""
    names = list(inspect.signature(module.forward).parameters)
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    return {name: value for name, value in given.items() if value is not None}


def takes(module: nn.Module, name: str) -> bool:
    """Whether a module's forward names an argument."""
    return name in inspect.signature(module.forward).parameters


@contextmanager
def announced(module: nn.Module) -> Iterator[None]:
    """While open, the layouts of the module's forward are known to whoever records it."""
    _announced.append(module)
    try:
        yield
    finally:
        _announced.remove(module)


def is_announced(module: nn.Module) -> bool:
    """Whether a forward of the module is one whose layouts were announced with it."""
    return any(one is module for one in _announced)


@contextmanager
def following(module: Any) -> Iterator[Callable[[Arguments], Arguments]]:
    """What turns the arguments of a forward into those that tell its layout.

    ``generate`` encodes pictures before its prefill and then leaves grids out; while this is open
    its own arguments are kept and fill them in. A decode step, which a cache continues, tells
    nothing: it gives no arguments.
    """
    own: Any = getattr(module, "generate", None)
    asked: Arguments = {}

    def generate(*args: Any, **kwargs: Any) -> Any:
        asked.clear()
        given = dict(zip(("inputs",), args, strict=False)) | kwargs
        asked.update({name: value for name, value in given.items() if value is not None})
        try:
            return own(*args, **kwargs)
        finally:
            asked.clear()

    def filled(inputs: Arguments) -> Arguments:
        cache = inputs.get("past_key_values")
        if cache is not None and int(cache.get_seq_length()) > 0:
            return {}
        return asked | inputs

    before = vars(module).get("generate")
    if own is not None:
        vars(module)["generate"] = generate
    try:
        yield filled
    finally:
        vars(module).pop("generate", None)
        if before is not None:
            vars(module)["generate"] = before


@contextmanager
def fresh_positions(model: nn.Module) -> Iterator[None]:
    """Run as if nothing had run before, and leave nothing behind.

    Models with M-RoPE keep how far a prompt's positions lag behind its tokens (``rope_deltas``) and
    apply it to the next embeddings that come without ids, of whatever prompt.
    """
    kept = [(module, module.rope_deltas) for module in model.modules() if hasattr(module, _DELTAS)]
    try:
        for module, _ in kept:
            setattr(module, _DELTAS, None)
        yield
    finally:
        for module, deltas in kept:
            setattr(module, _DELTAS, deltas)
