"""The seam of WavLM, whose attention calls torch's own function instead of transformers' interface.

Torch makes the output, as without a watcher. Queries, keys and values are made once more from the
layer's input with its own projections; the gated position bias is the one that arrived. That these
are right is checked in every call: they must give the output that torch gave.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from sinkscope.errors import SiteError

__all__ = ["calls_torch", "watching_torch"]

_METHOD = "torch_multi_head_self_attention"
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
_HALF_TOLERANCE = 4e-2

Seen = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Query, key, value, mask and output, with the axes of an `AttentionCall`."""

_watchers: dict[int, list[Callable[[Seen, float], None]]] = {}
_lock = threading.Lock()


def calls_torch(module: nn.Module) -> bool:
    """Whether a module is an attention of WavLM."""
    return any(
        kind.__name__ == "WavLMAttention" and kind.__module__.startswith("transformers.models.")
        for kind in type(module).__mro__
    )


@contextmanager
def watching_torch(watchers: Mapping[nn.Module, Callable[[Seen, float], None]]) -> Iterator[None]:
    """While open, what enters and leaves the attention of the modules is handed to their watchers.

    Each is called with query, key, value, mask and output, and what q kᵀ is multiplied by.
    """
    entered: list[nn.Module] = []
    try:
        with _lock:
            for module, watcher in watchers.items():
                if id(module) not in _watchers:
                    _watchers[id(module)] = []
                    vars(module)[_METHOD] = _observed(module)
                _watchers[id(module)].append(watcher)
                entered.append(module)
        yield
    finally:
        with _lock:
            for module in entered:
                _watchers[id(module)].remove(watchers[module])
                if not _watchers[id(module)]:
                    del _watchers[id(module)], vars(module)[_METHOD]


def _observed(module: nn.Module) -> Callable[..., Any]:
    own = getattr(module, _METHOD)

    def attend(hidden_states: Tensor, attention_mask: Tensor | None, bias: Tensor) -> Any:
        result = own(hidden_states, attention_mask, bias)
        seen = _seen(module, hidden_states.detach(), attention_mask, bias.detach(), result[0])
        for watcher in tuple(_watchers.get(id(module), ())):
            watcher(seen, float(seen[0].shape[-1] ** -0.5))
        return result

    return attend


@torch.no_grad()
def _seen(
    module: Any,
    states: Float[Tensor, "sample frame feature"],
    real: Bool[Tensor, "sample frame"] | None,
    bias: Float[Tensor, "row frame frame"],
    output: Float[Tensor, "sample frame feature"],
) -> Seen:
    heads = int(module.num_heads)
    query, key, value = (
        rearrange(projection(states), "s t (h d) -> s h t d", h=heads)
        for projection in (module.q_proj, module.k_proj, module.v_proj)
    )
    mask = rearrange(bias, "(s h) q k -> s h q k", h=heads)
    if real is not None:
        mask = mask.masked_fill(~real.bool()[:, None, None], float("-inf"))
    z = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask.to(query.dtype))
    z = rearrange(z, "s h t d -> s t h d")
    _refuse_unlike(module.out_proj(rearrange(z, "s t h d -> s t (h d)")), output)
    return query, key, value, mask, z


def _refuse_unlike(made: Tensor, output: Tensor) -> None:
    if not torch.isfinite(output).all():
        return
    off, size = float((made - output).abs().amax()), float(output.abs().amax().clamp_min(1e-6))
    if not off <= _TOLERANCE.get(output.dtype, _HALF_TOLERANCE) * size:
        raise SiteError(
            "Attention maps: WavLM's attention gives another output than softmax(q kᵀ + bias) of "
            f"its own projections (off by {off:.2g} where it reaches {size:.2g}): this version's "
            "formula is not known here. Record sites other than q, k, v, z and pattern."
        )
