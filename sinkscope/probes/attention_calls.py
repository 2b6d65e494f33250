"""What passes the attention seam, and who may look at it or change it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

__all__ = ["AttentionCall", "Editor", "Watcher", "chunks_of", "split_call"]


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """What entered and left one layer's attention function.

    Attributes:
        query: after rotary embedding and norms.
        key: the same, with what the cache holds.
        value: the same.
        mask: as it arrived.
        output: what the model goes on with: what its own function made of them, as edited.
        made: what its own function made of them; None for the same.
        drops: whether it drops weights at random, as in training.
        scaling: what q kᵀ is multiplied by.
        causal: whether, without a mask, a query sees the keys up to itself only.
        window: keys that a query sees, where the function itself applies it.
        softcap: as in `AttentionMap`.
        sinks: as in `AttentionMap`.
    """

    query: Float[Tensor, "sample head query feature"]
    key: Float[Tensor, "sample kv_head key feature"]
    value: Float[Tensor, "sample kv_head key feature_v"]
    mask: Tensor | None
    output: Float[Tensor, "sample query head feature_v"]
    scaling: float
    causal: bool
    window: int | None = None
    softcap: float | None = None
    sinks: Float[Tensor, " head"] | None = None
    made: Float[Tensor, "sample query head feature_v"] | None = None
    drops: bool = False

    @property
    def unedited(self) -> Float[Tensor, "sample query head feature_v"]:
        """What the model's own function made."""
        return self.output if self.made is None else self.made


Watcher = Callable[[AttentionCall], None]
"""What is called with every attention call of a module."""


@runtime_checkable
class Editor(Protocol):
    """What changes a module's attention before anyone watches it."""

    def mask(self, mask: Tensor | None, query: Tensor, key: Tensor, *, causal: bool) -> Any:
        """The mask to use instead of the one that arrived."""
        ...

    def output(self, output: Float[Tensor, "sample query head feature_v"]) -> Tensor:
        """The output to use instead of the one that was made."""
        ...


_ENDS = ("cu_seq_lens_q", "cu_seq_lens_k")


def chunks_of(
    name: str, query: Tensor, key: Tensor, options: Mapping[str, Any]
) -> tuple[list[slice] | None, Mapping[str, Any]]:
    """The chunks of a packed sequence that a flash function is told of, and its other options.

    Chunks that see all of themselves are taken out; None, and the options as they are, for
    anything else, so that whoever does not know them refuses them.

    Args:
        name: of the attention function.
        query: ``sample head query feature``.
        key: ``sample kv_head key feature``.
        options: what the function is called with.
    """
    ends = [options.get(end) for end in _ENDS]
    if not name.startswith("flash_attention") or options.get("is_causal") is not False:
        return None, options
    if not all(isinstance(end, Tensor) for end in ends):
        return None, options
    first, second = (end.tolist() for end in ends if isinstance(end, Tensor))
    whole = first == second and first[:1] == [0] and first[-1] == query.shape[2] == key.shape[2]
    if not whole or len(query) != 1:
        return None, options
    chunks = [slice(start, stop) for start, stop in pairwise(first) if stop > start]
    return chunks, {key: value for key, value in options.items() if key not in _ENDS}


def split_call(call: AttentionCall, chunks: Sequence[slice]) -> Iterator[AttentionCall]:
    """A call for each chunk of a packed sequence."""
    for chunk in chunks:
        yield replace(
            call,
            query=call.query[:, :, chunk],
            key=call.key[:, :, chunk],
            value=call.value[:, :, chunk],
            output=call.output[:, chunk],
            made=None if call.made is None else call.made[:, chunk],
        )
