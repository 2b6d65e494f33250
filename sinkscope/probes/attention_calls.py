"""What passes the attention seam, and who may look at it or change it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

__all__ = ["AttentionCall", "Editor", "Watcher"]


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
