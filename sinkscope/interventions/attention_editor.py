"""Edits of attention at work in one layer: what the attention seam calls."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from sinkscope.interventions.blocking import blocked_mask, hidden_keys

if TYPE_CHECKING:
    from sinkscope.interventions.session import Session

__all__ = ["AttentionEditor"]


@dataclass(frozen=True, eq=False)
class AttentionEditor:
    """The edits of one layer's attention.

    Attributes:
        session: whose edits they are.
        layer: the layer.
        hiding: numbers of the edits that hide keys.
        changing: numbers of the edits of what its heads hand on.
    """

    session: "Session"
    layer: int
    hiding: list[int]
    changing: list[int]

    def mask(self, mask: Tensor | None, query: Tensor, key: Tensor, *, causal: bool) -> Any:
        """The mask with keys hidden."""
        session, step = self.session, self.session.step
        if step is None or not self.hiding:
            return mask
        hidden: dict[int, list[tuple[list[int], list[int], list[int] | None]]] = {}
        own: dict[int, np.ndarray] = {}
        offset = step.offsets[self.layer]
        for part, stream in zip(step.parts, step.streams, strict=True):
            own[part.sample] = np.arange(step.positions) + stream.padded - step.positions - offset
            for number in self.hiding:
                edit: Any = session.edits[number]
                place = {"layer": self.layer, "number": session.numbers[stream]}
                rows, columns = hidden_keys(edit, part, stream, offset=offset, **place)
                if rows and columns:
                    session.acted.add(number)
                    heads = edit.chosen_heads(query.shape[1])
                    hidden.setdefault(part.sample, []).append((rows, columns, heads))
        if not hidden:
            return mask
        additive = session.subject.anatomy.attn_implementation == "eager"
        return blocked_mask(
            mask, query, key, hidden=hidden, own=own, causal=causal, additive=additive
        )

    def output(self, output: Tensor) -> Tensor:
        """What the heads hand on, with the edits made."""
        return self.session.changed(output, self.layer, self.changing)
