"""Attention of a packed sequence: one call for each chunk, which sees itself and nothing else.

Some encoders run several clips or images, or the windows of one, as one sequence without a sample
axis. Their attention function is called once for each chunk, in the order of the sequence. The map
of the whole is block-diagonal; its blocks are made one by one and never put together.

Example:
    >>> q = torch.zeros(1, 2, 3, 4)
    >>> call = AttentionCall(q, q, q, None, q.transpose(1, 2), scaling=1.0, causal=False)
    >>> chunks = Chunks(6, "layer 0")
    >>> chunks.add(call), chunks.add(call)
    (False, True)
    >>> PackedMap(chunks.map(np.zeros(6, int))).length
    6
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int

from sinkscope.errors import SiteError
from sinkscope.probes.attention_calls import AttentionCall
from sinkscope.probes.blocks import AttentionMap
from sinkscope.probes.formula import refuse_unlike
from sinkscope.probes.scratch import Scratch
from sinkscope.probes.values import Rows

__all__ = ["Chunks", "PackedMap"]


@dataclass(frozen=True, eq=False)
class PackedMap:
    """The map of a packed sequence in one layer; what `AttentionMap` is to one sample.

    Attributes:
        chunks: the maps of its chunks, in the order of the sequence.
    """

    chunks: Sequence[AttentionMap]

    @property
    def n_queries(self) -> int:
        """Query rows of the map."""
        return sum(chunk.n_queries for chunk in self.chunks)

    @property
    def n_heads(self) -> int:
        """Query heads."""
        return self.chunks[0].n_heads

    @property
    def length(self) -> int:
        """Tokens of the sequence."""
        return self.chunks[-1].length

    def blocks(self, *, scratch: Scratch | None = None) -> Iterator[Rows]:
        """All rows in blocks, the last block first; a block's tensors hold until the next."""
        for chunk in reversed(self.chunks):
            for rows in chunk.blocks(scratch=scratch):
                yield replace(rows, length=self.length)


@dataclass
class Chunks:
    """The calls of one layer's attention in one forward, until they cover the sequence.

    Attributes:
        positions: of the sequence.
        where: for messages.
        calls: those that are waiting for the others.
        covered: positions that the calls cover.
        number: how many calls there were.
    """

    positions: int
    where: str
    calls: list[AttentionCall] = field(default_factory=list)
    covered: int = 0
    number: int = 0

    def add(self, call: AttentionCall) -> bool:
        """Take the next call in; whether the sequence is covered now.

        Raises:
            SiteError: the call is not of a chunk that sees all of itself and nothing else, or it
                goes beyond the sequence.
        """
        samples, _, queries, _ = call.query.shape
        if samples != 1 or call.key.shape[2] != queries:
            raise SiteError(
                f"Attention of a packed sequence in {self.where}: a call brought {samples} samples "
                f"of {queries} queries and {call.key.shape[2]} keys; a chunk is one sample whose "
                "tokens see one another. Record sites other than q, k, v, z and pattern."
            )
        if call.mask is not None or (call.causal and queries > 1) or call.window is not None:
            raise SiteError(
                f"Attention of a packed sequence in {self.where}: a chunk came with a mask, a "
                "window or causal, and only chunks that see all of themselves are known here. "
                "Record sites other than q, k, v, z and pattern."
            )
        self.calls.append(call)
        self.covered, self.number = self.covered + queries, self.number + 1
        if self.covered > self.positions:
            raise SiteError(f"Attention of {self._disagreement()}")
        return self.covered == self.positions

    def refuse_rest(self) -> None:
        """Refuse calls that do not cover the sequence.

        Raises:
            SiteError: if there are fewer positions than the sequence has.
        """
        if self.covered != self.positions:
            raise SiteError(f"Attention of {self._disagreement()}")

    def whole(self) -> AttentionCall:
        """Queries, keys, values and output of all chunks, side by side: not for a map."""
        first, calls = self.calls[0], self.calls
        return replace(
            first,
            query=torch.cat([call.query for call in calls], dim=2),
            key=torch.cat([call.key for call in calls], dim=2),
            value=torch.cat([call.value for call in calls], dim=2),
            output=torch.cat([call.output for call in calls], dim=1),
            made=None,
        )

    def map(self, segments: Int[np.ndarray, " query"]) -> tuple[AttentionMap, ...]:
        """The map of each chunk.

        Args:
            segments: place on the ``segment`` axis of each token of the sequence.
        """
        lengths = [call.query.shape[2] for call in self.calls]
        starts = [0, *accumulate(lengths)]
        return tuple(
            AttentionMap(
                rearrange(call.query[0].detach(), "(h g) q d -> h g q d", h=call.key.shape[1]),
                call.key[0].detach(),
                segments[start : start + length],
                call.scaling,
                start=start,
                first_key=start,
                causal=False,
                softcap=call.softcap,
                sinks=None if call.sinks is None else call.sinks.detach(),
            )
            for call, start, length in zip(self.calls, starts, lengths, strict=False)
        )

    def check(self, maps: Sequence[AttentionMap]) -> None:
        """Refuse maps whose last rows do not give what the model computed.

        Raises:
            SiteError: if one does not.
        """
        for number, (chunk, call) in enumerate(zip(maps, self.calls, strict=True)):
            where = f"chunk {number} of {self.where}"
            refuse_unlike(chunk, call.value[0].detach(), call.unedited[0, -1], where=where)

    def _disagreement(self) -> str:
        return (
            f"{self.where}: its {self.number} calls cover {self.covered} positions, the "
            f"sequence has {self.positions}; what the calls leave out or repeat is not known, so "
            "no map can be made of them."
        )
