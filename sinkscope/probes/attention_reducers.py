"""Statistics of attention maps, block of rows by block of rows: no map is ever whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sinkscope.errors import SiteError
from sinkscope.glossary import SEGMENTS
from sinkscope.probes.reducer import Cat, Reducer, Rule, State, Sum
from sinkscope.probes.values import Rows

__all__ = ["ArgmaxShare", "RowEntropy", "SegmentAttention"]


@dataclass(frozen=True)
class _MapReducer(Reducer):
    """A reducer of attention maps: its site is ``pattern``."""

    site: str = field(default="pattern", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.site != "pattern":
            raise SiteError(f"{type(self).__name__} reads 'pattern', not {self.site!r}.")


@dataclass(frozen=True)
class SegmentAttention(_MapReducer):
    """Attention that each key receives from the queries of each segment, summed, and their number.

    One state serves the key attention α of Gu et al. (arXiv 2410.10781; the sum over segments, over
    the number of queries), segment flow and cross-modal scores.
    """

    def rules(self) -> Mapping[str, Rule]:
        """How two states combine."""
        return {"segment_sum": Sum(), "queries": Sum()}

    def reduce(self, value: Rows) -> State:
        """``segment_sum[head, segment, key]`` and ``queries[segment, key]``."""
        present, member = _membership(value)
        heads = len(value.weights)
        sums = value.weights.new_zeros(heads, len(SEGMENTS), value.last_key)
        counts = torch.zeros(len(SEGMENTS), value.last_key, dtype=torch.int32, device=sums.device)
        received = torch.from_numpy(member).to(value.weights) @ value.weights
        seeing = _seeing(value, member)
        for i, segment in enumerate(present):
            sums[:, segment, value.first_key :] = received[:, i]
            counts[segment, value.first_key :] = seeing[i]
        return {"segment_sum": sums, "queries": counts}

    def variables(self) -> Mapping[str, tuple[str, ...]]:
        """``segment_sum`` and ``queries``."""
        return {"segment_sum": ("head", "segment", "key"), "queries": ("segment", "key")}


@dataclass(frozen=True)
class RowEntropy(_MapReducer):
    """Entropy of each row of the map, in nats: ``-Σ A log A`` over the keys.

    Where learned sinks take a share of a row, that share is left out of the sum.
    """

    def rules(self) -> Mapping[str, Rule]:
        """How two states combine."""
        return {"entropy": Cat(axis=1)}

    def reduce(self, value: Rows) -> State:
        """``entropy[head, query]``."""
        if value.scores is None:
            return {"entropy": torch.special.entr(value.weights).sum(-1)}
        highest = value.scores.amax(-1, keepdim=True)
        log_peak = value.weights.amax(-1).clamp_min(torch.finfo(value.weights.dtype).tiny).log()
        spread = (value.scores - highest).mul_(value.weights).sum(-1)
        mass = 1 if value.complete else value.weights.sum(-1)
        return {"entropy": (-log_peak * mass - spread).clamp_min(0)}

    def variables(self) -> Mapping[str, tuple[str, ...]]:
        """``entropy``."""
        return {"entropy": ("head", "query")}


@dataclass(frozen=True)
class ArgmaxShare(_MapReducer):
    """How many queries attend most to each key (Kaul et al., arXiv 2410.17174).

    Divide by the number of tokens for the share.
    """

    def rules(self) -> Mapping[str, Rule]:
        """How two states combine."""
        return {"argmax_count": Sum()}

    def reduce(self, value: Rows) -> State:
        """``argmax_count[head, key]``."""
        peaks = value.weights.argmax(-1) + value.first_key
        counts = torch.zeros(len(peaks), value.last_key, dtype=torch.int64, device=peaks.device)
        counts.scatter_add_(1, peaks, torch.ones_like(peaks))
        return {"argmax_count": counts.to(torch.int32)}

    def variables(self) -> Mapping[str, tuple[str, ...]]:
        """``argmax_count``."""
        return {"argmax_count": ("head", "key")}


def _membership(value: Rows) -> tuple[list[int], Float[np.ndarray, "segment query"]]:
    """The segments of these queries, and 1 where a query belongs to one."""
    present = sorted(set(value.segments.tolist()))
    return present, np.equal.outer(present, value.segments).astype(np.float32)


def _seeing(value: Rows, member: Float[np.ndarray, "segment query"]) -> Int[Tensor, "segment key"]:
    """How many queries of each segment see each key."""
    if value.visible is not None:
        seen = value.visible.to(torch.float32)
        return (torch.from_numpy(member).to(seen.device) @ seen).to(torch.int32)
    keys = np.arange(value.first_key, value.last_key)
    later = np.cumsum(member[:, ::-1], axis=1)[:, ::-1].astype(np.int32)
    counts = later[:, np.clip(keys - value.start, 0, value.n_queries - 1)]
    counts[:, keys >= value.start + value.n_queries] = 0
    return torch.from_numpy(counts)
