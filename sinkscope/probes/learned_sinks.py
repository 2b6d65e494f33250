"""LearnedSink: how much of each row of attention goes to no token, but to a learned logit."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from sinkscope.probes.attention_reducers import MapReducer
from sinkscope.probes.reducer import Cat, Rule, State
from sinkscope.probes.values import Rows
from sinkscope.subjects.anatomy import Anatomy

__all__ = ["LearnedSink", "has_learned_sinks"]

_ROUNDING = 1e-5
"""What float32 weights of a whole row may miss."""


@dataclass(frozen=True)
class LearnedSink(MapReducer):
    """The missing mass: what a head's learned sink (gpt-oss) takes of each row, 0 to 1.

    Where softmax has such a logit, the weights of the keys sum to less than 1 by just this. It is 0
    in a row without one.
    """

    def rules(self) -> Mapping[str, Rule]:
        """How two states combine."""
        return {"learned_sink": Cat(axis=1)}

    def reduce(self, value: Rows) -> State:
        """``learned_sink[head, query]``."""
        missing = (1 - value.weights.sum(-1)).clamp_min(0)
        if value.complete and value.scores is not None:
            return {"learned_sink": torch.zeros_like(missing)}
        if value.scores is None:  # of a kept map only the weights are known
            known = value.sees().any(-1) & (missing > _ROUNDING)
            missing = torch.where(known, missing, 0)
        return {"learned_sink": missing}

    def variables(self) -> Mapping[str, tuple[str, ...]]:
        """``learned_sink``."""
        return {"learned_sink": ("head", "query")}


def has_learned_sinks(anatomy: Anatomy) -> bool:
    """Whether a model's softmax has a learned logit for each head."""
    return any(isinstance(getattr(m, "sinks", None), nn.Parameter) for m in anatomy.attention)
