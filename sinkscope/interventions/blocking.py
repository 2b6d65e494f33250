"""Edits of attention: keys that no other token may see.

Example:
    >>> DropBos().keys
    'bos'
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sinkscope.errors import InputError
from sinkscope.interventions.targets import (
    Numbers,
    Target,
    TokenChoice,
    listed,
    of_sample,
    tokens_of,
)
from sinkscope.probes.stitching import Part, Stream

__all__ = ["BlockAttention", "DropBos", "blocked_mask", "hidden_keys"]


@dataclass(frozen=True, eq=False, kw_only=True)
class BlockAttention(Target):
    """Hide keys from the queries of other tokens; a token always sees itself.

    What the hidden keys would have got is shared out among the others by softmax.

    Attributes:
        keys: the tokens to hide, by position, segment or label; or a table, as ``at``.
        queries: the tokens that may not see them; None for all others.
        heads: the heads in which; None for all.
    """

    keys: TokenChoice | pd.DataFrame = None
    queries: TokenChoice = None
    heads: Numbers | None = None

    def for_sample(self, sample: int) -> "BlockAttention":
        """The same edit for one sample alone, which becomes sample 0."""
        if not isinstance(self.keys, pd.DataFrame):
            return super().for_sample(sample)
        return replace(self, at=None, keys=of_sample(self.keys, sample))

    def __post_init__(self) -> None:
        if isinstance(self.keys, pd.DataFrame):
            object.__setattr__(self, "at", self.keys)
        else:
            object.__setattr__(self, "tokens", self.keys)
        super().__post_init__()
        if self.keys is None and self.at is None:
            raise InputError("BlockAttention: say which keys= to hide.")
        if self.features is not None:
            raise InputError("BlockAttention hides whole keys; leave features= out.")

    @property
    def column(self) -> None:
        """None: whole keys are hidden."""
        return None

    def chosen_heads(self, count: int) -> list[int] | None:
        """The heads, or None for all.

        Raises:
            InputError: if there is no such head.
        """
        if self.heads is None:
            return None
        heads = listed(self.heads)
        outside = [head for head in heads if not 0 <= head < count]
        if outside:
            raise InputError(
                f"BlockAttention: there is no head {outside[0]}; there are {count}, from 0."
            )
        return heads


@dataclass(frozen=True, eq=False, kw_only=True)
class DropBos(BlockAttention):
    """Hide BOS from every other token.

    Where positions are relative (rotary embeddings), the others compute what they would without
    BOS; learned absolute positions stay what they were.
    """

    keys: TokenChoice | pd.DataFrame = "bos"


def hidden_keys(
    edit: BlockAttention, part: Part, stream: Stream, *, layer: int, number: int, offset: int
) -> tuple[list[int], list[int]]:
    """Rows of this forward and columns of its keys that an edit parts in one sample.

    Args:
        edit: what hides them.
        part: the sample's share of the forward.
        stream: the sample.
        layer: the layer.
        number: which sample it is, for tables.
        offset: place in the padded sequence of the first key column.
    """
    keys = edit.cells(stream.layout, number, layer).tokens
    columns = [int(place) for place in stream.places[keys] - offset if place >= 0]
    queries = tokens_of(edit.queries, stream.layout)
    queries = queries[(queries >= part.start) & (queries < part.start + part.count)]
    rows = [row_of(part, int(query)) for query in queries]
    return rows, columns


def row_of(part: Part, token: int) -> int:
    """The row of a forward in which a token of a sample stands."""
    place = token - part.start
    rows = part.rows
    return rows.start + place if isinstance(rows, slice) else int(rows[place])


def blocked_mask(
    mask: Tensor | None,
    query: Tensor,
    key: Tensor,
    *,
    hidden: Mapping[int, Sequence[tuple[list[int], list[int], list[int] | None]]],
    own: Mapping[int, np.ndarray],
    causal: bool,
    additive: bool,
) -> Tensor | None:
    """The attention mask with keys hidden.

    Args:
        mask: the one that arrived, ``[sample, head, query, key]``, true (or 0) where a key is seen.
        query: ``[sample, head, query, feature]``.
        key: ``[sample, kv_head, key, feature]``.
        hidden: by sample, the rows, columns and heads (None: all) to part.
        own: by sample, the column of each row's own key.
        causal: whether, without a mask, queries see the keys up to their own only.
        additive: whether the attention function adds its mask to the scores.
    """
    samples, heads, queries = query.shape[:3]
    by_head = any(chosen is not None for parts in hidden.values() for _, _, chosen in parts)
    shape = (samples, heads if by_head else 1, queries, key.shape[2])
    blocked = torch.zeros(shape, dtype=torch.bool, device=query.device)
    for sample, parts in hidden.items():
        for rows, columns, chosen in parts:
            for head in range(shape[1]) if chosen is None else chosen:
                blocked[sample, head][np.ix_(rows, columns)] = True
        places = own[sample]
        seen = np.flatnonzero((places >= 0) & (places < shape[3]))
        blocked[sample][:, seen, places[seen]] = False
    if not bool(blocked.any()):
        return mask
    if mask is None:
        mask = _unmasked(shape, query, causal=causal)
    mask = mask.expand(samples, -1, -1, -1)
    if mask.dtype == torch.bool and not additive and not by_head:
        return mask & ~blocked
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(
            ~mask, torch.finfo(query.dtype).min
        )
    lowest = torch.finfo(mask.dtype).min
    return mask.expand(-1, shape[1] if mask.shape[1] == 1 else -1, -1, -1).masked_fill(
        blocked, lowest
    )


def _unmasked(shape: tuple[int, ...], query: Tensor, *, causal: bool) -> Tensor:
    """The boolean mask that no mask stands for."""
    queries, keys = shape[2:]
    visible = torch.ones(queries, keys, dtype=torch.bool, device=query.device)
    visible = visible.tril(keys - queries) if causal else visible
    return visible[None, None].expand(shape[0], 1, -1, -1)
