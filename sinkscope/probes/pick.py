"""Pick: the values of a few tokens of a sample, whole or at a few features."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sinkscope.errors import InputError
from sinkscope.glossary import SITES
from sinkscope.probes.reducer import Cat, Rule, State
from sinkscope.probes.residual_reducers import TokenReducer
from sinkscope.probes.values import Tokens

__all__ = ["Pick"]


@dataclass(frozen=True)
class Pick(TokenReducer):
    """What stands at a site for chosen tokens: ``picked_<site>[place, feature]``.

    The places are the chosen tokens in the order of the sample; tokens beyond its end are left out.

    Attributes:
        tokens: positions in the sample.
        features: the features (or neurons) that are kept, in this order; None for all.
    """

    tokens: tuple[int, ...] = ()
    features: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(SITES[self.site].dims) != 3:
            raise InputError(f"Pick reads states without a head, not {self.site!r}.")

    def rules(self) -> Mapping[str, Rule]:
        """How two states combine."""
        return {self._name: Cat(axis=0)}

    def reduce(self, value: Tokens) -> State:
        """The chosen tokens among these, on the CPU."""
        end = value.start + len(value.values)
        here = sorted({token for token in self.tokens if value.start <= token < end})
        rows = torch.tensor(here, dtype=torch.long, device=value.values.device) - value.start
        picked = value.values.detach()[rows]
        if self.features is not None:
            picked = picked[:, list(self.features)]
        return {self._name: picked.to("cpu", copy=True)}

    def variables(self) -> Mapping[str, tuple[str, ...]]:
        """``picked_<site>``."""
        return {self._name: ("place", SITES[self.site].dims[-1])}

    @property
    def _name(self) -> str:
        return f"picked_{self.site}"
