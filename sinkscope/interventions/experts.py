"""Edits of mixtures of experts (MoME, arXiv 2510.04136): routed experts that are silenced.

Example:
    >>> gates = torch.tensor([[0.6, 0.0, 0.4], [0.0, 0.0, 1.0]])
    >>> SilenceExperts(experts=2).new(gates, None).tolist()[1]
    [0.0, 0.0, 0.0]
    >>> SilenceExperts(experts=2, renormalise=True).new(gates, None).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sinkscope.errors import InputError
from sinkscope.interventions.edits import Edit, View
from sinkscope.interventions.targets import Numbers, listed

__all__ = ["SilenceExperts"]


@dataclass(frozen=True, eq=False, kw_only=True)
class SilenceExperts(Edit):
    """Set the gates of routed experts to 0, where the router chose them.

    The router chooses as before: no other expert takes the place of one that is silenced. A token
    that chose none of them is left as it was, to the bit; one that chose no other keeps the shared
    experts alone.

    Attributes:
        experts: numbers of routed experts, from 0; shared ones are not counted.
        renormalise: whether a token's other chosen experts grow so that the sum of its gates stays;
            if not, what the silenced ones added is missing and nothing else changes.
    """

    experts: Numbers
    renormalise: bool = False
    site: str = "expert_gates"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.site != "expert_gates" or self.features is not None:
            raise InputError("SilenceExperts: choose experts=; leave site= and features= out.")
        if not listed(self.experts) or min(listed(self.experts)) < 0:
            raise InputError(f"SilenceExperts: experts is {self.experts!r}; give numbers from 0.")

    def refuse_missing(self, count: int) -> None:
        """Refuse experts that a mixture of ``count`` routed experts lacks.

        Raises:
            InputError: naming the first of them.
        """
        outside = [expert for expert in listed(self.experts) if expert >= count]
        if outside:
            raise InputError(
                f"SilenceExperts: there is no routed expert {outside[0]}; there are {count}, from "
                "0, shared ones not counted."
            )

    @property
    def column(self) -> None:
        """None: a table ``at=`` names tokens; the experts are ``experts``."""
        return None

    def new(self, values: Tensor, view: View | None) -> Tensor:
        """The gates ``[token, expert]`` without those of the silenced experts."""
        chosen = listed(self.experts)
        left = values.clone()
        left[..., chosen] = 0
        if not self.renormalise:
            return left
        before, after = values.sum(-1, keepdim=True), left.sum(-1, keepdim=True)
        grown = left * before / after.clamp_min(torch.finfo(after.dtype).tiny)
        touched = (values[..., chosen] != 0).any(-1, keepdim=True)
        return torch.where(touched, grown, values)
