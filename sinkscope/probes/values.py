"""What reducers are given: the states of a sample's tokens, or a block of rows of its map.

Padding is left out before: tokens, queries and keys are counted among the real tokens.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sinkscope.probes.scratch import Scratch

__all__ = ["Rows", "Tokens"]


@dataclass(frozen=True)
class Tokens:
    """One sample's values at a site of one layer.

    Attributes:
        values: a state for each token; sites of attention have a head in front.
        start: position of the first token in the sample; above 0 when a cache holds those before.
        reference: the state of the layout's reference token, where a reducer asked for it.
    """

    values: Float[Tensor, "*head token feature"]
    start: int = 0
    reference: Float[Tensor, " feature"] | None = None

    def split(self, first: int) -> tuple["Tokens", "Tokens"]:
        """The first tokens and the others, as a prefill and a decode step would give them."""
        before, after = self.values[..., :first, :], self.values[..., first:, :]
        return (
            replace(self, values=before),
            replace(self, values=after, start=self.start + first),
        )


@dataclass(frozen=True)
class Rows:
    """Consecutive query rows of one sample's attention map in one layer.

    Attributes:
        weights: attention weights, 0 where the query cannot see the key. With learned sinks a row
            sums to less than 1.
        segments: place on the ``segment`` axis of each query.
        length: tokens of the sample so far.
        start: position of the first query in the sample.
        first_key: position of the first key of ``weights`` in the sample.
        visible: which query sees which key; None for plain causal attention, where a query sees
            all of these keys up to itself.
        scores: what softmax was taken of, very low where not visible; None where only the weights
            are known.
        complete: whether every row sums to 1.
        scratch: memory that reducers may work in, as long as they keep nothing there.
    """

    weights: Float[Tensor, "head query key"]
    segments: Int[np.ndarray, " query"]
    length: int
    start: int = 0
    first_key: int = 0
    visible: Bool[Tensor, "query key"] | None = None
    scores: Float[Tensor, "head query key"] | None = None
    complete: bool = True
    scratch: Scratch = field(default_factory=Scratch, compare=False, repr=False)

    @property
    def n_queries(self) -> int:
        """How many rows these are."""
        return self.weights.shape[1]

    @property
    def last_key(self) -> int:
        """Position after the last key, counted in the sample."""
        return self.first_key + self.weights.shape[2]

    def sees(self) -> Bool[Tensor, "query key"]:
        """Which query sees which key, spelled out."""
        if self.visible is not None:
            return self.visible
        queries = torch.arange(self.start, self.start + self.n_queries)
        keys = torch.arange(self.first_key, self.last_key)
        return (keys[None] <= queries[:, None]).to(self.weights.device)

    def workspace(self, use: str) -> Float[Tensor, "head query key"]:
        """Memory of the shape of ``weights``, with anything in it; each use has its own."""
        return self.scratch.take(use, self.weights.shape, self.weights)

    def split(self, first: int) -> tuple["Rows", "Rows"]:
        """The first rows and the others, as two blocks would give them."""

        def part(chosen: slice, start: int) -> "Rows":
            return replace(
                self,
                weights=self.weights[:, chosen],
                segments=self.segments[chosen],
                start=start,
                visible=self.sees()[chosen],
                scores=None if self.scores is None else self.scores[:, chosen],
            )

        return part(slice(None, first), self.start), part(slice(first, None), self.start + first)
