"""Edits of the embeddings that enter the decoder: swap or replace those of chosen tokens.

Example:
    >>> SwapEmbeddings("<audio>", "</audio>").first
    '<audio>'
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from sinkscope.errors import InputError
from sinkscope.interventions.targets import TokenChoice, tokens_of
from sinkscope.layout import TokenLayout

__all__ = ["EmbeddingEdit", "ReplaceEmbeddings", "SwapEmbeddings"]

_CHUNK = 8192


@dataclass(frozen=True, eq=False)
class SwapEmbeddings:
    """Exchange the embeddings of two tokens, or of two choices of as many tokens each.

    Attributes:
        first: a position, segment or label.
        second: another.
    """

    first: TokenChoice
    second: TokenChoice

    def touched(self, layout: TokenLayout) -> list[int]:
        """The tokens whose embeddings change."""
        return [int(t) for pair in self._pairs(layout) for t in pair]

    def new(self, states: Tensor, layout: TokenLayout, table: nn.Module | None) -> Tensor:
        """The embeddings of a sample, ``[token, feature]``, exchanged."""
        pairs = self._pairs(layout)
        order = np.arange(len(states))
        for one, other in pairs:
            order[one], order[other] = other, one
        return states[torch.as_tensor(order, device=states.device)]

    def _pairs(self, layout: TokenLayout) -> list[tuple[int, int]]:
        first, second = (tokens_of(choice, layout) for choice in (self.first, self.second))
        if len(first) != len(second):
            raise InputError(
                f"SwapEmbeddings: {self.first!r} names {len(first)} tokens here, {self.second!r} "
                f"{len(second)}; name as many."
            )
        return list(zip(first.tolist(), second.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class ReplaceEmbeddings:
    """Put other vectors in place of the embeddings of chosen tokens.

    Attributes:
        tokens: which, by position, segment or label.
        by: ``"mean"`` (of the vocabulary), ``"zero"``, ``"random"`` (drawn with the mean and
            deviation of every feature over the vocabulary), another token (position, segment or
            label of one), or a vector ``[feature]``.
        seed: of the draw.
    """

    tokens: TokenChoice
    by: Literal["mean", "zero", "random"] | int | np.integer | str | Tensor = "mean"
    seed: int = 0

    def touched(self, layout: TokenLayout) -> list[int]:
        """The tokens whose embeddings change."""
        return tokens_of(self.tokens, layout).tolist()

    def new(self, states: Tensor, layout: TokenLayout, table: nn.Module | None) -> Tensor:
        """The embeddings of a sample, ``[token, feature]``, with others in their places."""
        places = tokens_of(self.tokens, layout).tolist()
        if not places:
            return states
        replaced = states.clone()
        replaced[places] = self._vectors(len(places), states, layout, table)
        return replaced

    def _vectors(
        self, count: int, states: Tensor, layout: TokenLayout, table: nn.Module | None
    ) -> Tensor:
        shape = (count, states.shape[-1])
        if isinstance(self.by, Tensor):
            return self.by.to(states).expand(shape)
        if self.by == "zero":
            return states.new_zeros(shape)
        if self.by in ("mean", "random"):
            mean, deviation = _vocabulary(table)
            if self.by == "mean":
                return mean.to(states).expand(shape)
            generator = torch.Generator().manual_seed(self.seed)
            noise = torch.randn(shape, generator=generator)
            return (mean + noise * deviation).to(states)
        found = tokens_of(self.by, layout)
        if len(found) != 1:
            raise InputError(
                f"ReplaceEmbeddings: by={self.by!r} names {len(found)} tokens of the sample; name "
                "one, or give 'mean', 'zero', 'random' or a vector."
            )
        return states[int(found[0])].expand(shape)


EmbeddingEdit = SwapEmbeddings | ReplaceEmbeddings


@torch.no_grad()
def _vocabulary(table: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every feature over the vocabulary, as the table gives its entries.

    Its ``forward`` is called past the hooks, of which the edit itself is one.
    """
    weight = getattr(table, "weight", None)
    if table is None or not isinstance(weight, Tensor) or weight.device.type == "meta":
        raise InputError(
            "ReplaceEmbeddings: the embeddings of the vocabulary cannot be read here; give a "
            "vector as by=."
        )
    count, total, squares = len(weight), torch.zeros(()), torch.zeros(())
    for ids in torch.arange(count, device=weight.device).split(_CHUNK):
        part = table.forward(ids).double().cpu()
        total, squares = total + part.sum(0), squares + (part**2).sum(0)
    mean = total / count
    return mean.float(), (squares / count - mean**2).clamp_min(0).sqrt().float()
