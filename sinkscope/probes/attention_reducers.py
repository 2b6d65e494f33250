"""Statistics of attention maps, block of rows by block of rows: no map is ever whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from sinkscope.errors import SiteError
from sinkscope.glossary import SEGMENTS
from sinkscope.probes.reducer import Cat, Reducer, Rule, State, Sum, extended
from sinkscope.probes.values import Rows

__all__ = ["ArgmaxShare", "MapReducer", "RowEntropy", "SegmentAttention"]


@dataclass(frozen=True)
class MapReducer(Reducer):
    """A reducer of attention maps: its site is ``pattern``."""

    site: str = field(default="pattern", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.site != "pattern":
            raise SiteError(f"{type(self).__name__} reads 'pattern', not {self.site!r}.")


@dataclass(frozen=True)
class SegmentAttention(MapReducer):
    """Attention that each key receives from the queries of each segment, summed, and their number.

    One state serves the key attention α of Gu et al. (arXiv 2410.10781; the sum over segments, over
    the number of queries), segment flow and cross-modal scores.
    """

    def rules(self) -> Mapping[str, Rule]:
        """How two states combine."""
        return {f"{what} {segment}": Sum() for segment in SEGMENTS for what in ("sum", "queries")}

    def reduce(self, value: Rows) -> State:
        """For each segment with queries here, their sum ``[head, key]`` and number ``[key]``."""
        present, member = _membership(value)
        sums = torch.from_numpy(member).to(value.weights) @ value.weights
        seeing = _seeing(value, member)
        state = {}
        for i, segment in enumerate(present):
            state[f"sum {SEGMENTS[segment]}"] = _from_first_key(sums[:, i], value)
            state[f"queries {SEGMENTS[segment]}"] = _from_first_key(seeing[i], value)
        return state

    def finish(self, state: State) -> State:
        """``segment_sum[head, segment, key]`` and ``queries[segment, key]``, 0 for the others."""
        sums = [entry for name, entry in state.items() if name.startswith("sum")]
        heads, keys = len(sums[0]), max(entry.shape[1] for entry in sums)
        segment_sum = sums[0].new_zeros(heads, len(SEGMENTS), keys)
        queries = torch.zeros(len(SEGMENTS), keys, dtype=torch.int32, device=sums[0].device)
        for i, segment in enumerate(SEGMENTS):
            if f"sum {segment}" in state:
                segment_sum[:, i] = extended(state[f"sum {segment}"], [heads, keys])
                queries[i] = extended(state[f"queries {segment}"], [keys])
        return {"segment_sum": segment_sum, "queries": queries}

    def variables(self) -> Mapping[str, tuple[str, ...]]:
        """``segment_sum`` and ``queries``."""
        return {"segment_sum": ("head", "segment", "key"), "queries": ("segment", "key")}


@dataclass(frozen=True)
class RowEntropy(MapReducer):
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
        spread = torch.sub(value.scores, highest, out=value.workspace("entropy"))
        spread = spread.mul_(value.weights).sum(-1)
        mass = 1 if value.complete else value.weights.sum(-1)
        return {"entropy": (-log_peak * mass - spread).clamp_min(0)}

    def variables(self) -> Mapping[str, tuple[str, ...]]:
        """``entropy``."""
        return {"entropy": ("head", "query")}


@dataclass(frozen=True)
class ArgmaxShare(MapReducer):
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


def _from_first_key(entry: Shaped[Tensor, "... key"], value: Rows) -> Shaped[Tensor, "... all"]:
    """The entry with zeros for the keys before those of the block."""
    return functional.pad(entry, (value.first_key, 0)) if value.first_key else entry


def _seeing(value: Rows, member: Float[np.ndarray, "segment query"]) -> Int[Tensor, "segment key"]:
    """How many queries of each segment see each key."""
    if value.visible is not None:
        seen = value.visible.to(torch.float32)
        return (torch.from_numpy(member).to(seen.device) @ seen).to(torch.int32)
    counts = np.empty((len(member), value.weights.shape[2]), np.int32)
    own = max(0, value.start - value.first_key)
    counts[:, :own] = member.sum(1, keepdims=True)
    later = np.cumsum(member[:, ::-1], axis=1)[:, ::-1]
    counts[:, own:] = later[:, : counts.shape[1] - own]
    return torch.from_numpy(counts).to(value.weights.device)
