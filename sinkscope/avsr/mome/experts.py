"""The mixture of one block: a router, shared and routed bottleneck experts (arXiv 2510.04136).

Example:
    >>> mixture = Mome(8, MomeSettings(routed=3, top_k=2, bottleneck=1))
    >>> states = torch.randn(2, 5, 8)
    >>> bool((mixture(states, states) == 0).all())
    True
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sinkscope.avsr.mome_settings import MomeSettings

__all__ = ["Gate", "Mome", "Routing"]


class Routing(NamedTuple):
    """What a router decided for some tokens.

    Attributes:
        logits: of the routed experts.
        probabilities: their softmax, in float32 at least.
        gates: what each routed expert is multiplied by: 0 for those that were not chosen.
    """

    logits: Float[Tensor, "*token expert"]
    probabilities: Float[Tensor, "*token expert"]
    gates: Float[Tensor, "*token expert"]


class Gate(nn.Module):
    """From the router's logits to the sparse gates; a module of its own, so that it can be seen."""

    def __init__(self, settings: MomeSettings) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, logits: Float[Tensor, "*token expert"]) -> Routing:
        """Chooses the ``top_k`` most probable experts a token; of equal ones the first.

        Half precision often gives two experts one logit. Whoever reads the probabilities, in
        float32, can choose the same experts.
        """
        settings = self.settings
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        probabilities = wide.softmax(dim=-1)
        chosen = _first_largest(probabilities.detach().float(), settings.top_k)
        if settings.softmax == "selected":
            kept = wide.gather(-1, chosen).softmax(dim=-1)
        else:
            kept = probabilities.gather(-1, chosen)
            if settings.renormalise:
                kept = kept / kept.sum(dim=-1, keepdim=True)
        gates = torch.zeros_like(wide).scatter(-1, chosen, kept)
        return Routing(logits, probabilities, gates)


def _first_largest(
    values: Float[Tensor, "*token expert"], count: int
) -> Int[Tensor, "*token chosen"]:
    """Places of the largest values, of equal ones the first: ``topk`` leaves that open."""
    left, places = values, []
    for _ in range(count):
        places.append(left.argmax(dim=-1, keepdim=True))
        left = left.scatter(-1, places[-1], -torch.inf)
    return torch.cat(places, dim=-1)


class Mome(nn.Module):
    """``sum_shared E_n(h) + sum_routed g_n E_n(h)``, ``E_n(h) = U_n GELU(D_n h + b_n) + c_n``.

    All experts are computed at once, as one bottleneck of ``experts · bottleneck`` units whose
    units are multiplied by the gates: at the widths that this is made for, that costs less than
    sorting tokens by expert would, and an expert that was not chosen has a gradient of exactly 0.

    Args:
        hidden_size: features of the stream.
        settings: see `MomeSettings`.
    """

    def __init__(self, hidden_size: int, settings: MomeSettings) -> None:
        super().__init__()
        self.settings = settings
        shape = (settings.experts, settings.bottleneck, hidden_size)
        self.down = nn.Parameter(torch.empty(shape))
        self.up = nn.Parameter(torch.empty(shape))
        self.down_bias = self.up_bias = None
        if settings.expert_bias:
            self.down_bias = nn.Parameter(torch.empty(shape[:2]))
            self.up_bias = nn.Parameter(torch.empty(shape[0], hidden_size))
        if settings.routed:
            self.router = nn.Linear(hidden_size, settings.routed, bias=settings.router_bias)
            self.gate = Gate(settings)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the down matrices as ``nn.Linear`` does; the up matrices as the settings say."""
        bound = 1 / math.sqrt(self.down.shape[-1])
        nn.init.uniform_(self.down, -bound, bound)
        if self.settings.up_init == "zeros":
            nn.init.zeros_(self.up)
        else:
            nn.init.normal_(self.up, std=0.02)
        if self.down_bias is not None and self.up_bias is not None:
            nn.init.uniform_(self.down_bias, -bound, bound)
            nn.init.zeros_(self.up_bias)

    def forward(
        self,
        states: Float[Tensor, "*token feature"],
        routed_by: Float[Tensor, "*token feature"],
    ) -> Float[Tensor, "*token feature"]:
        """What the experts add to the residual stream.

        Args:
            states: what the experts read.
            routed_by: what the router reads.
        """
        settings = self.settings
        gates = states.new_ones(*states.shape[:-1], settings.shared)
        if settings.routed:
            routing: Routing = self.gate(self.router(routed_by))
            gates = torch.cat([gates, routing.gates.to(states)], dim=-1)
        bias = None if self.down_bias is None else self.down_bias.flatten()
        hidden = functional.gelu(functional.linear(states, self.down.flatten(0, 1), bias))
        weighted = hidden.unflatten(-1, self.down.shape[:2]) * gates[..., None]
        added = weighted.flatten(-2) @ self.up.flatten(0, 1)
        if self.up_bias is not None:
            added = added + gates @ self.up_bias
        return added * settings.scale

    def extra_repr(self) -> str:
        """Printed with the module."""
        own = self.settings
        return (
            f"routed={own.routed}, top_k={own.top_k}, shared={own.shared}, "
            f"bottleneck={own.bottleneck}, placement={own.placement!r}"
        )
