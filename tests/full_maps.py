"""The slow, plain truth: whole attention maps in float32 from the q, k and mask that arrive.

Written against transformers' own description of its interface, sharing nothing with the probes.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@dataclass
class Arrived:
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    options: dict[str, Any]

    def visible(self) -> Tensor:
        """``[sample, query, key]``, by the arriving mask or plain causality."""
        samples, _, queries, _ = self.query.shape
        keys = self.key.shape[2]
        if self.mask is None:
            return torch.ones(queries, keys).tril(keys - queries).bool().expand(samples, -1, -1)
        seen = self.mask if self.mask.dtype == torch.bool else self.mask > -1e30
        return seen[:, 0].expand(samples, -1, -1)

    def map(self) -> Tensor:
        """``[sample, head, query, key]``, float32."""
        group = self.query.shape[1] // self.key.shape[1]
        key = self.key.float().repeat_interleave(group, dim=1)
        scores = torch.einsum("bhqd,bhkd->bhqk", self.query.float(), key)
        scores = scores * self.options["scaling"]
        cap = self.options.get("softcap")
        scores = scores if cap is None else cap * torch.tanh(scores / cap)
        scores = scores.masked_fill(~self.visible()[:, None], float("-inf"))
        peak = scores.amax(-1, keepdim=True).clamp(min=-1e30)
        sinks = self.options.get("s_aux")
        exps = torch.exp(scores - peak)
        total = exps.sum(-1, keepdim=True)
        if sinks is not None:
            total = total + torch.exp(sinks.detach().float()[None, :, None, None] - peak)
        return exps / total.clamp(min=1e-30)


@contextmanager
def arriving(model: nn.Module) -> Iterator[list[Arrived]]:
    """While open, what enters the attention function of every call is listed."""
    arrived: list[Arrived] = []
    name = model.config._attn_implementation
    original = ALL_ATTENTION_FUNCTIONS.get(name)

    def spy(module, query, key, value, attention_mask=None, **options):
        tensors = [t if t is None else t.detach() for t in (query, key, value, attention_mask)]
        arrived.append(Arrived(*tensors, options))
        own = original or sys.modules[type(module).__module__].eager_attention_forward
        return own(module, query, key, value, attention_mask, **options)

    ALL_ATTENTION_FUNCTIONS[name] = spy
    try:
        yield arrived
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]
