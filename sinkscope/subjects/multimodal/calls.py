"""What a composite is called with, by name: by its subject, by a caller, or by ``generate``."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from sinkscope.errors import InputError
from sinkscope.subjects.multimodal.table import Composite, token_id
from sinkscope.subjects.subject import ModelInputs

__all__ = [
    "arguments",
    "following",
    "fresh_positions",
    "given_by_subject",
    "refuse_continued",
    "run_by_subject",
    "takes",
]

Arguments = dict[str, Any]

_DELTAS = "rope_deltas"

_running: ContextVar[tuple[nn.Module, ModelInputs] | None] = ContextVar("_running", default=None)


@contextmanager
def run_by_subject(module: nn.Module, inputs: ModelInputs) -> Iterator[None]:
    """While open, forwards of a composite are those of its subject, which knows their layouts."""
    before = _running.set((module, inputs))
    try:
        yield
    finally:
        _running.reset(before)


def given_by_subject(module: nn.Module) -> ModelInputs | None:
    """What its subject runs a composite on; None where someone else calls it."""
    running = _running.get()
    return running[1] if running is not None and running[0] is module else None


def arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
    """What a module is called with, by name, without what is None."""
    names = list(inspect.signature(module.forward).parameters)
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    return {name: value for name, value in given.items() if value is not None}


def takes(module: nn.Module, name: str) -> bool:
    """Whether a module's forward names an argument."""
    return name in inspect.signature(module.forward).parameters


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
        if _continues(inputs):
            return {}
        _refuse_multiplied(asked, inputs)
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


def refuse_continued(composite: Composite, called: Arguments, config: Any) -> None:
    """Refuse a forward that a cache continues and that brings more of a stream.

    A decode step has one id; some models are handed the features of their prompt again with it.

    Raises:
        InputError: a stream's features or placeholders come with several ids, or both with one.
    """
    if not _continues(called):
        return
    ids = called.get("input_ids")
    several = ids is None or ids.shape[-1] > 1
    for name, stream in composite.streams.items():
        placeholder = token_id(stream.placeholder, config)
        placed = ids is not None and placeholder is not None and bool((ids == placeholder).any())
        brings = stream.features in called
        if (placed and brings) or (several and (placed or brings)):
            raise InputError(
                f"This forward continues a KV cache and brings {name} "
                f"({stream.features if brings else 'placeholders'}); a probe "
                f"knows {name} of a first forward only: give the whole conversation at once, "
                "without past_key_values and in one chunk."
            )


def _continues(called: Arguments) -> bool:
    """Whether a cache holds what was before."""
    cache = called.get("past_key_values")
    return cache is not None and int(cache.get_seq_length()) > 0


def _refuse_multiplied(asked: Arguments, inputs: Arguments) -> None:
    """``generate`` repeats samples for beams, but not what it keeps to itself for its prefill."""
    before, now = asked.get("input_ids", asked.get("inputs")), inputs.get("input_ids")
    if not isinstance(before, Tensor) or not isinstance(now, Tensor) or len(before) == len(now):
        return
    kept = [name for name, value in asked.items() if isinstance(value, Tensor)]
    kept = [name for name in kept if name not in (*inputs, "inputs")]
    if kept:
        raise InputError(
            f"generate makes {len(now)} samples of {len(before)}, for beams or several sequences, "
            f"but not of {', '.join(kept)}, so whose they are is not known; use num_beams=1 and "
            "num_return_sequences=1, or give each conversation several times."
        )


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
