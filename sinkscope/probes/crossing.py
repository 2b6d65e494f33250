"""The map of cross-attention: the last tokens of a sample are queries, the first ones keys.

What reducers make of it is put in its place among all tokens of the sample, frames first: rows of
frames, which attend to nothing, hold NaN; columns of tokens, which nothing attends to, NaN or 0.
"""

from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sinkscope.errors import InputError, SiteError
from sinkscope.probes.attention_calls import AttentionCall
from sinkscope.probes.blocks import AttentionMap
from sinkscope.probes.reducer import State
from sinkscope.probes.stitching import Part

__all__ = ["crossing_map", "in_place"]


def crossing_map(
    call: AttentionCall, part: Part, *, positions: int, where: str
) -> tuple[AttentionMap, Float[Tensor, "kv_head key feature_v"], Float[Tensor, "head feature_v"]]:
    """One sample's map, the values of its keys, and what its last query gets.

    Args:
        call: what entered and left the attention function.
        part: the sample's share: places of all frames, then of the tokens.
        positions: frames and tokens of the forward, padding included.
        where: for messages.

    Raises:
        InputError: the layouts do not cover the frames and the tokens of the call.
        SiteError: a mask came with it.
    """
    frames, queries = call.key.shape[2], call.query.shape[2]
    heard = part.places[part.places < frames]
    if frames + queries != positions or len(heard) != frames:
        raise InputError(
            f"Cross-attention in {where} has {queries} tokens and {frames} frames, the layouts "
            f"cover {positions} positions, {len(heard)} of them real frames; give layouts of every "
            "frame and every token."
        )
    if call.mask is not None:
        raise SiteError(
            f"Cross-attention in {where} came with a mask over the frames, which is not handled; "
            "run it without."
        )
    rows = torch.from_numpy(part.places[frames:] - frames).to(call.query.device)
    query = call.query[part.sample].detach().index_select(1, rows)
    key = call.key[part.sample].detach()
    attention = AttentionMap(
        rearrange(query, "(h g) q d -> h g q d", h=len(key)),
        key,
        part.segments[frames:],
        call.scaling,
        start=frames,
        causal=False,
        softcap=call.softcap,
        sinks=None if call.sinks is None else call.sinks.detach(),
    )
    last = call.unedited[part.sample, int(rows[-1])]
    return attention, call.value[part.sample].detach(), last


def in_place(
    state: State, axes: Mapping[str, Sequence[str]], *, frames: int, tokens: int
) -> dict[str, Tensor]:
    """A finished state, its queries after the frames and its keys before the tokens.

    Args:
        state: what a reducer's ``finish`` gave.
        axes: of each entry, as the reducer's ``variables`` say.
        frames: keys of the map.
        tokens: queries of the map.

    Example:
        >>> made = in_place({"entropy": torch.ones(1, 2)}, {"entropy": ("head", "query")},
        ...     frames=1, tokens=2)
        >>> made["entropy"].tolist()
        [[nan, 1.0, 1.0]]
    """
    return {
        name: _in_place(entry, axes.get(name, ()), frames, tokens, sums=name == "segment_sum")
        for name, entry in state.items()
    }


def _in_place(
    entry: Tensor, axes: Sequence[str], frames: int, tokens: int, *, sums: bool
) -> Tensor:
    blank = float("nan") if entry.dtype.is_floating_point and not sums else 0
    for place, axis in enumerate(axes):
        more = {"query": (frames, 0), "key": (0, tokens)}.get(axis)
        if more is not None:
            behind = (0, 0) * (entry.ndim - 1 - place)
            entry = functional.pad(entry, (*behind, *more), value=blank)
    return entry
