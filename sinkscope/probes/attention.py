"""The attention seam: the model's own function makes the output, statistics are made beside it.

transformers keeps its attention functions in a table. While someone watches, the entry that a model
uses is a function that calls the original, hands what went in and came out to the watchers of that
very module, and returns the original's output untouched. Modules that nobody watches pass through.
An editor, where there is one, changes mask or output of its module before the watchers see them.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from sinkscope.errors import SiteError
from sinkscope.probes.attention_calls import (
    AttentionCall,
    Editor,
    Watcher,
    chunks_of,
    split_call,
)
from sinkscope.probes.wavlm_attention import Seen, calls_torch, watching_torch

__all__ = ["AttentionCall", "Editor", "Watcher", "editing", "watching"]

_EAGER = "eager"
_MASKED_BY_TENSOR = ("sdpa", _EAGER)
_HARMLESS = frozenset(
    {
        "cache_position",
        "deterministic",
        "dropout",
        "logits_to_keep",
        "max_length_k",
        "max_length_q",
        "num_items_in_batch",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)
_HANDLED = frozenset({"is_causal", "s_aux", "scaling", "sliding_window", "softcap"})

_OTHER_EAGER = {
    "Phi4MultimodalAudioAttention": "simple_eager_attention_forward",
    "Phi4MultimodalVisionAttention": "simple_eager_attention_forward",
}
"""Classes whose eager attention function has another name than its file's others."""


@dataclass
class _Seam:
    """One entry of a table of attention functions while it is watched."""

    table: Any
    name: str
    before: Callable[..., Any] | None
    observed: Callable[..., Any] | None = None
    watchers: dict[int, list[Watcher]] = field(default_factory=dict)
    editors: dict[int, list[Editor]] = field(default_factory=dict)


_seams: dict[tuple[int, str], _Seam] = {}
_lock = threading.Lock()


@contextmanager
def watching(name: str, watchers: Mapping[nn.Module, Watcher]) -> Iterator[None]:
    """While open, every attention call of the given modules is handed to its watcher.

    Args:
        name: the attention function in use: ``"eager"`` or a key of transformers' table.
        watchers: what is called, for each attention module.

    Raises:
        SiteError: if the function's formula is not known here, or is not in the table.
    """
    of_torch = {m: partial(_hand_over, w) for m, w in watchers.items() if calls_torch(m)}
    others = {m: watcher for m, watcher in watchers.items() if m not in of_torch}
    if others or not of_torch:
        _refuse_unknown(name)
    with watching_torch(of_torch), _watching_table(name, others):
        yield


@contextmanager
def editing(name: str, editors: Mapping[nn.Module, Editor]) -> Iterator[None]:
    """While open, every attention call of the given modules goes through its editor.

    Whoever watches sees what the editors have made of it. Several editors of one module act in the
    order in which they came.

    Args:
        name: the attention function in use: ``"eager"`` or a key of transformers' table.
        editors: what changes the calls, for each attention module.

    Raises:
        SiteError: the attention does not pass through the table, or takes no mask as a tensor.
    """
    if any(calls_torch(module) for module in editors):
        raise SiteError(
            "The attention of WavLM, torch's own, cannot be changed from outside: no keys can be "
            "hidden and no heads edited; edit the site attn_out or a stream."
        )
    if name not in _MASKED_BY_TENSOR:
        raise SiteError(
            f"Attention with {name!r} takes no mask that could hide keys; load the model with "
            "attn_implementation='sdpa' or 'eager'."
        )
    entered: list[tuple[_Seam, int, Editor]] = []
    try:
        with _lock:
            for module, editor in editors.items():
                seam = _seam(_table(module), name)
                seam.editors.setdefault(id(module), []).append(editor)
                entered.append((seam, id(module), editor))
        yield
    finally:
        with _lock:
            for seam, module_id, editor in entered:
                _leave(seam, seam.editors, module_id, editor)


def _hand_over(watcher: Watcher, seen: Seen, scaling: float | int) -> None:
    watcher(AttentionCall(*seen, scaling=float(scaling), causal=False))


@contextmanager
def _watching_table(name: str, watchers: Mapping[nn.Module, Watcher]) -> Iterator[None]:
    entered: list[tuple[_Seam, int, Watcher]] = []
    try:
        with _lock:
            for module, watcher in watchers.items():
                seam = _seam(_table(module), name)
                seam.watchers.setdefault(id(module), []).append(watcher)
                entered.append((seam, id(module), watcher))
        yield
    finally:
        with _lock:
            for seam, module_id, watcher in entered:
                _leave(seam, seam.watchers, module_id, watcher)


def _refuse_unknown(name: str) -> None:
    if name not in _MASKED_BY_TENSOR and not name.startswith("flash_attention"):
        raise SiteError(
            f"Attention maps: the formula of the attention function {name!r} is not known here; "
            "load the model with attn_implementation='sdpa' or 'eager'."
        )


def _table(module: nn.Module) -> Any:
    """The table of attention functions that a module's own file uses."""
    for kind in type(module).__mro__:
        table = getattr(sys.modules.get(kind.__module__), "ALL_ATTENTION_FUNCTIONS", None)
        if table is not None:
            return table
    raise SiteError(
        f"Attention maps: {type(module).__name__} does not use transformers' attention interface; "
        "record sites other than q, k, v, z and pattern."
    )


def _seam(table: Any, name: str) -> _Seam:
    """The seam of a table's entry; put in place if nobody watched it before."""
    place = (id(table), name)
    if place not in _seams:
        before = table.get(name)
        if before is None and name != _EAGER:
            raise SiteError(f"Attention maps: transformers knows no attention function {name!r}.")
        seam = _seams[place] = _Seam(table, name, before)
        seam.observed = table[name] = _observed(seam)
    return _seams[place]


def _leave(seam: _Seam, held: dict[int, list[Any]], module_id: int, who: Any) -> None:
    held[module_id].remove(who)
    if not held[module_id]:
        del held[module_id]
    if seam.watchers or seam.editors:
        return
    del _seams[id(seam.table), seam.name]
    if seam.table.get(seam.name) is seam.observed:
        del seam.table[seam.name]
        if seam.table.get(seam.name) is not seam.before:
            seam.table[seam.name] = seam.before


def _observed(seam: _Seam) -> Callable[..., Any]:
    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        own = seam.before or _own_eager(module)
        editors = tuple(seam.editors.get(id(module), ()))
        for editor in editors:
            causal = _is_causal(seam, module, query, kwargs)
            attention_mask = editor.mask(attention_mask, query, key, causal=causal)
        result = own(module, query, key, value, attention_mask, *args, **kwargs)
        made = result[0]
        for editor in editors:
            result = (editor.output(result[0]), *result[1:])
        watchers = tuple(seam.watchers.get(id(module), ()))
        if watchers:
            options = kwargs | {f"argument {5 + i}": given for i, given in enumerate(args)}
            chunks, options = chunks_of(seam.name, query, key, options)
            call = _call(seam, module, (query, key, value, attention_mask, made), options)
            call = call if made is result[0] else replace(call, output=result[0], made=made)
            for part in [call] if chunks is None else split_call(call, chunks):
                for watcher in watchers:
                    watcher(part)
        return result

    return attend


def _own_eager(module: nn.Module) -> Callable[..., Any]:
    """The eager attention function of the file that defines the module's class."""
    for kind in type(module).__mro__:
        name = _OTHER_EAGER.get(kind.__name__, "eager_attention_forward")
        own = getattr(sys.modules.get(kind.__module__), name, None)
        if own is not None:
            return own
    raise SiteError(
        f"Attention maps: the file of {type(module).__name__} has no eager attention function; "
        "load the model with attn_implementation='sdpa'."
    )


def _call(
    seam: _Seam,
    module: nn.Module,
    tensors: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor],
    options: Mapping[str, Any],
) -> AttentionCall:
    _refuse_options(seam.name, module, options)
    query, key, value, mask, output = tensors
    scaling = options.get("scaling")
    return AttentionCall(
        query,
        key,
        value,
        mask,
        output,
        scaling=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        causal=_is_causal(seam, module, query, options),
        window=None if seam.name in _MASKED_BY_TENSOR else options.get("sliding_window"),
        softcap=options.get("softcap"),
        sinks=options.get("s_aux"),
        drops=module.training and bool(options.get("dropout")),
    )


def _is_causal(seam: _Seam, module: nn.Module, query: Tensor, options: Mapping[str, Any]) -> bool:
    """Whether, without a mask, a query sees the keys up to itself only."""
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    return bool(causal) and query.shape[2] > 1 and seam.name != _EAGER


def _refuse_options(name: str, module: nn.Module, options: Mapping[str, Any]) -> None:
    known = _HARMLESS | _HANDLED - ({"s_aux"} if name == "sdpa" else set())
    odd = [option for option, given in options.items() if given is not None and option not in known]
    if odd:
        raise SiteError(
            f"Attention maps: {type(module).__name__} hands {', '.join(sorted(odd))} to {name!r} "
            "attention, which may change the formula and is not handled; record sites other than "
            "q, k, v, z and pattern."
        )
