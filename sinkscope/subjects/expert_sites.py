"""Sites of mixtures of experts: router, gates, and what they add.

Of a mixture (MoME) beside a block they are read here; of the mixtures of transformers that are a
block's MLP, in `fused_experts`. Where a block has both, the one beside it is read.

A mixture adds to the output of the part that it is parallel to. So what ``attn_out`` or
``mlp_out`` reads is the sum, with what the experts add; beside a whole layer neither holds it, and
``resid_mid + mlp_out + expert_out`` is ``resid_post``.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from sinkscope.avsr.mome import Mome, MomeSettings, Routing
from sinkscope.errors import InputError
from sinkscope.subjects.family import Family
from sinkscope.subjects.fused_experts import fused_absence, fused_tap
from sinkscope.subjects.taps import Tap, first_output, put_output

__all__ = [
    "EXPERT_SITES",
    "adding_hooks",
    "expert_absence",
    "expert_settings",
    "expert_tap",
    "mixture_of",
]

EXPERT_SITES = ("router", "expert_gates", "expert_out")


def mixture_of(block: nn.Module) -> Mome | None:
    """The mixture beside a block, or None."""
    found = getattr(block, "mome", None)
    return found if isinstance(found, Mome) else None


def expert_settings(blocks: Sequence[nn.Module]) -> MomeSettings | None:
    """The settings of the mixtures of a model's blocks; None where it has none.

    Raises:
        InputError: two blocks have mixtures of other settings, which a record cannot state.
    """
    found = [mixture.settings for block in blocks if (mixture := mixture_of(block)) is not None]
    if any(settings != found[0] for settings in found):
        raise InputError(
            "The mixtures of experts differ in their settings from block to block; attach them "
            "with one MomeSettings."
        )
    return found[0] if found else None


def adding_hooks(module: nn.Module) -> list[int]:
    """Numbers of the forward hooks by which a mixture adds to what a module gives."""
    hooks = module._forward_hooks.items()
    return [number for number, hook in hooks if isinstance(getattr(hook, "__self__", None), Mome)]


def expert_absence(site: str, block: nn.Module, row: Family) -> str:
    """Why a block has no such site; "" where it has."""
    mixture = mixture_of(block)
    if mixture is None:
        return fused_absence(site, block, row)
    if site != "expert_out" and not mixture.settings.routed:
        return "all experts of the mixture are shared, so it has no router"
    return ""


def expert_tap(site: str, block: nn.Module, row: Family) -> Tap:
    """Where to read a site of a block's mixture, which must be there."""
    if mixture_of(block) is None:
        return fused_tap(site, block, row)
    mixture = block.get_submodule("mome")
    settings: MomeSettings = mixture.settings  # pyright: ignore[reportAssignmentType]
    flat = settings.placement == "mlp" and row.down in row.flat
    if site == "router":
        return Tap(block.get_submodule("mome.gate"), "output", _probabilities, flat)
    if site == "expert_gates":
        return Tap(block.get_submodule("mome.gate"), "output", _gates, flat, _put_gates)
    return Tap(mixture, "output", first_output, flat, put_output)


def _probabilities(routing: Routing) -> Tensor:
    return routing.probabilities


def _gates(routing: Routing) -> Tensor:
    return routing.gates


def _put_gates(routing: Routing, gates: Tensor) -> Routing:
    return routing._replace(gates=gates)
