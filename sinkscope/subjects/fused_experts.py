"""Sites of the mixtures of experts of transformers, whose experts are fused parameters.

All of them are called alike: a router returns ``(logits, gates, numbers)`` of the chosen experts of
every token, and a module of all experts takes them and returns the sum. Samples and tokens are on
one axis. ``expert_out`` is that sum: a shared expert (Qwen2-MoE, DeepSeek) is in ``mlp_out`` and
not in it.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sinkscope.errors import SiteError
from sinkscope.subjects.family import Experts, Family
from sinkscope.subjects.finding import submodule
from sinkscope.subjects.taps import Tap, first_output, put_output

__all__ = ["describe_fused", "fused_absence", "fused_tap", "has_fused", "routed_count"]

Routed = tuple[Float[Tensor, "token expert"], Float[Tensor, "token choice"], Tensor]
"""What a router returns: logits (of Gemma 4: probabilities), gates, numbers of experts."""


def has_fused(block: nn.Module, row: Family) -> bool:
    """Whether a block's MLP is, or stands beside, experts in fused parameters."""
    experts = row.experts
    return experts is not None and all(
        submodule(block, path) is not None for path in (experts.router, experts.module)
    )


def fused_absence(site: str, block: nn.Module, row: Family) -> str:
    """Why a block lacks a site of `expert_sites`; "" where it has it."""
    if row.experts is None:
        return "the block has no mixture of experts"
    if site == "router" and not row.experts.probabilities:
        return f"the router of {row.model_type} gives scores that are no probabilities"
    if not has_fused(block, row):
        return "the block has no mixture of experts"
    if site == "expert_out" and not row.experts.adds:
        return f"{row.model_type} norms the sum of its experts and its MLP before it adds it"
    return ""


def fused_tap(site: str, block: nn.Module, row: Family) -> Tap:
    """Where to read a site, which must be there."""
    experts = row.experts or Experts()
    router = block.get_submodule(experts.router)
    if site == "router":
        given = experts.probabilities == "given"
        return Tap(router, "output", _given if given else _softmax, flat=True)
    if site == "expert_gates":
        return Tap(router, "output", _gates, flat=True, put=_put_gates)
    module = block.get_submodule(experts.module)
    return Tap(module, "output", first_output, flat=True, put=put_output)


def routed_count(block: nn.Module, row: Family) -> int:
    """How many experts a block's router chooses from; 0 where it has none."""
    if row.experts is None or not has_fused(block, row):
        return 0
    module: Any = block.get_submodule(row.experts.module)
    return int(module.num_experts)


def describe_fused(
    blocks: tuple[nn.Module, ...], row: Family, config: Any
) -> dict[str, Any] | None:
    """What a record says of its model's experts; None where there are none.

    ``top_k`` is None where the chosen experts are not simply the most probable ones, or their gates
    not simply their probabilities, so that nobody chooses again from a record's ``router``.
    """
    layers = [i for i, block in enumerate(blocks) if has_fused(block, row)]
    if row.experts is None or not layers:
        return None
    router: Any = blocks[layers[0]].get_submodule(row.experts.router)
    simple = row.experts.simple(config)
    return {
        "placement": "mlp",
        "routed": routed_count(blocks[layers[0]], row),
        "top_k": int(router.top_k) if simple else None,
        "renormalise": bool(getattr(router, "norm_topk_prob", row.experts.renormalised)),
        "layers": layers,
    }


def _softmax(routed: Routed) -> Tensor:
    return torch.softmax(routed[0], dim=-1, dtype=torch.float32)


def _given(routed: Routed) -> Tensor:
    return routed[0]


def _gates(routed: Routed) -> Tensor:
    logits, gates, numbers = routed
    return gates.new_zeros(logits.shape).scatter(1, numbers, gates)


def _put_gates(routed: Routed, tensor: Float[Tensor, "token expert"]) -> Routed:
    logits, gates, numbers = routed
    chosen = tensor.gather(1, numbers).to(gates.dtype)
    if int(tensor.count_nonzero()) > int(chosen.count_nonzero()):
        raise SiteError(
            "expert_gates: an expert that the router did not choose was given a gate, and it is "
            "not run; change the gates of chosen experts only."
        )
    return logits, chosen, numbers
