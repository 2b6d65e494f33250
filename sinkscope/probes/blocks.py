"""Any rows of one sample's attention map, from the queries and keys that entered attention.

The map is ``softmax(softcap(q kᵀ · scaling) + bias)`` over the keys that a query sees, with learned
sinks as one more column that is dropped. It is made a block of query rows at a time and only as
wide as the block sees, in float32 (float64 if q is), whatever the model computes in.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sinkscope.probes.scratch import Scratch
from sinkscope.probes.values import Rows

__all__ = ["AttentionMap", "compute_dtype"]

_UNSEEN = -1e30
_FEWEST_ROWS, _MOST_ROWS = 16, 64
_BLOCK = {"cpu": 2**22}
_BLOCK_ELSEWHERE = 2**26


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """What statistics of a map are computed in: float32, or float64 where the model is."""
    return torch.float64 if dtype is torch.float64 else torch.float32


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """One sample's attention in one layer, padding left out.

    Attributes:
        query: as it enters attention; heads that share a key are one group.
        key: the keys that these queries can see, or more.
        segments: place on the ``segment`` axis of each query.
        scaling: what q kᵀ is multiplied by.
        start: position of the first query in the sample.
        first_key: position of the first key in the sample.
        mask: booleans, true where a query sees a key, or what is added to the scores; None where
            ``causal`` says it all.
        causal: whether, without a mask, a query sees the keys up to itself, not all of them.
        window: how many keys up to itself a query sees, without a mask; None for all.
        softcap: scores are squeezed into ± this.
        sinks: learned logit of each head that takes its share of every row.
    """

    query: Float[Tensor, "kv_head group query feature"]
    key: Float[Tensor, "kv_head key feature"]
    segments: Int[np.ndarray, " query"]
    scaling: float
    start: int = 0
    first_key: int = 0
    mask: Bool[Tensor, "#head query key"] | Float[Tensor, "#head query key"] | None = None
    causal: bool = True
    window: int | None = None
    softcap: float | None = None
    sinks: Float[Tensor, " head"] | None = None

    @property
    def n_queries(self) -> int:
        """Query rows of the map."""
        return self.query.shape[2]

    @property
    def n_heads(self) -> int:
        """Query heads."""
        return self.query.shape[0] * self.query.shape[1]

    @property
    def length(self) -> int:
        """Tokens of the sample so far."""
        return max(self.start + self.n_queries, self.first_key + self.key.shape[1])

    def blocks(self, *, rows: int | None = None, scratch: Scratch | None = None) -> Iterator[Rows]:
        """All rows in blocks, the last block first, so that the widest comes first.

        A block's tensors hold until the next block is asked for.

        Args:
            rows: rows of a block; by default so many that a block stays in the processor's cache.
            scratch: memory to work in.
        """
        size = rows or self._block_rows()
        scratch = scratch or Scratch()
        for first in reversed(range(0, self.n_queries, size)):
            yield self.rows(first, min(first + size, self.n_queries), scratch=scratch)

    def rows(self, first: int, last: int, *, scratch: Scratch | None = None) -> Rows:
        """Rows ``first`` to ``last`` (without it), counted from the map's first query."""
        scratch = scratch or Scratch()
        keys, visible, bias = self._seen(first, last)
        scores = self._scores(first, last, keys, scratch)
        if bias is not None:
            scores += bias
        everything = self.mask is None and not self.causal
        if visible is None:
            _hide_later(scores, own=self.start + first - self.first_key - keys.start)
        elif not everything:
            scores.masked_fill_(~visible, _UNSEEN)
        weights = self._softmax(scores, scratch)
        if visible is not None and not everything:
            weights = _without_blind_rows(weights, visible)
        return Rows(
            weights,
            self.segments[first:last],
            length=self.length,
            start=self.start + first,
            first_key=self.first_key + keys.start,
            visible=visible,
            scores=scores,
            complete=self.sinks is None,
            scratch=scratch,
        )

    def _block_rows(self) -> int:
        budget = _BLOCK.get(self.key.device.type, _BLOCK_ELSEWHERE)
        rows = budget // (self.n_heads * max(1, self.key.shape[1]))
        most = _MOST_ROWS if self.key.device.type in _BLOCK else budget
        return int(2 ** np.floor(np.log2(max(_FEWEST_ROWS, min(most, rows)))))

    def _seen(self, first: int, last: int) -> tuple[slice, Tensor | None, Tensor | None]:
        """The keys that some of these queries see, which sees which, and what is added."""
        keys = self.key.shape[1]
        if self.mask is None:
            return self._seen_without_mask(first, last)
        rows = self.mask[:, first:last]
        visible = rows if rows.dtype == torch.bool else rows > torch.finfo(rows.dtype).min / 2
        visible = visible.any(0) if len(visible) > 1 else visible[0]
        seen = visible.any(0).nonzero()[:, 0]
        low, high = (int(seen[0]), int(seen[-1]) + 1) if len(seen) else (0, min(1, keys))
        bias = None
        if rows.dtype != torch.bool:
            bias = rows[..., low:high].to(compute_dtype(self.query.dtype))
        return slice(low, high), visible[:, low:high], bias

    def _seen_without_mask(self, first: int, last: int) -> tuple[slice, Tensor | None, None]:
        keys, device = self.key.shape[1], self.key.device
        if not self.causal:
            everything = torch.ones(last - first, keys, dtype=torch.bool, device=device)
            return slice(0, keys), everything, None
        high = min(keys, self.start + last - self.first_key)
        if self.window is None or self.start + last - self.first_key <= self.window:
            return slice(0, high), None, None
        low = max(0, self.start + first - self.first_key - self.window + 1)
        queries = torch.arange(self.start + first, self.start + last, device=device)[:, None]
        later = queries - torch.arange(self.first_key + low, self.first_key + high, device=device)
        return slice(low, high), (later >= 0) & (later < self.window), None

    def _scores(
        self, first: int, last: int, keys: slice, scratch: Scratch
    ) -> Float[Tensor, "head query key"]:
        key = self.key[:, keys].to(compute_dtype(self.query.dtype))
        query = self.query[:, :, first:last].to(key.dtype) * self.scaling
        query = rearrange(query, "h g q d -> h (g q) d")
        shape = (len(key), query.shape[1], key.shape[1])
        scores = torch.bmm(query, key.mT, out=scratch.take("scores", shape, key))
        scores = rearrange(scores, "h (g q) k -> (h g) q k", q=last - first)
        if self.softcap is not None:
            scores.div_(self.softcap).tanh_().mul_(self.softcap)
        return scores

    def _softmax(
        self, scores: Float[Tensor, "head query key"], scratch: Scratch
    ) -> Float[Tensor, "head query key"]:
        """Weights, without the column of learned sinks."""
        weights = scratch.take("weights", scores.shape, scores)
        if self.sinks is None:
            return torch.softmax(scores, -1, out=weights)
        sinks = self.sinks.to(scores.dtype)[:, None, None].expand(-1, scores.shape[1], 1)
        return torch.softmax(torch.cat([scores, sinks], -1), -1)[..., :-1]


def _hide_later(scores: Float[Tensor, "head query key"], *, own: int) -> None:
    """Hide keys after the query; ``own`` is the column of the first query's own key."""
    rows, width = scores.shape[1], scores.shape[2] - own
    if width > 0:
        later = scores.new_full((rows, width), _UNSEEN).triu_(1)
        scores[..., own:].add_(later)


def _without_blind_rows(
    weights: Float[Tensor, "head query key"], visible: Bool[Tensor, "query key"]
) -> Float[Tensor, "head query key"]:
    """Rows that see no key have no weights."""
    sighted = visible.any(-1)
    return weights if bool(sighted.all()) else weights * sighted[:, None]
