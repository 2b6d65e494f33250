"""What the down projections write on chosen features: read from what they compute, not from files.

A row of the weights is the gradient of one output feature with respect to the input. So adapters
are in it, offloaded weights are fetched by their own hooks, and quantised ones are what they act
as. Whether the rows explain what the projection gave in a real forward is measured, never assumed.
What hooks change or add behind the projection is no part of it.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from sinkscope.errors import SiteError
from sinkscope.subjects.anatomy import Anatomy
from sinkscope.subjects.expert_sites import adding_hooks
from sinkscope.subjects.taps import first_input, first_output

__all__ = ["DownProjections", "Rows", "read_rows"]

_SAMPLED = 8
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
_HALF_TOLERANCE = 5e-2
_ONE_HOTS = 256


@dataclass(frozen=True, eq=False)
class Rows:
    """What one down projection does for the chosen features.

    Attributes:
        weight: what one unit of a neuron adds to a feature.
        bias: what it adds without any.
    """

    weight: Float[Tensor, "feature neuron"]
    bias: Float[Tensor, " feature"]


@dataclass(eq=False)
class DownProjections:
    """The down projections of the layers of a forward, watched and then read.

    Attributes:
        anatomy: where they are.
        features: whose rows are read.
        layers: which of them.
    """

    anatomy: Anatomy
    features: Sequence[int]
    layers: Sequence[int]
    _seen: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def attach(self, stack: ExitStack) -> None:
        """Watch the next forward; the stack ends it."""
        for layer in self.layers:
            module = self.anatomy.down_projection(layer)
            if module is not None:
                hook = module.register_forward_hook(
                    self._see(layer), with_kwargs=True, prepend=True
                )
                stack.callback(hook.remove)

    def read(self) -> tuple[dict[int, Rows], dict[int, str]]:
        """The rows of each layer that could be read, and why not for each of the others."""
        found: dict[int, Rows] = {}
        unreadable: dict[int, str] = {}
        for layer in self.layers:
            module = self.anatomy.down_projection(layer)
            if module is None or layer not in self._seen:
                why = self.anatomy.absence("mlp_act", layer)
                unreadable[layer] = why or "its down projection was not run"
                continue
            try:
                found[layer] = self._checked(module, layer)
            except SiteError as error:
                unreadable[layer] = str(error)
        return found, unreadable

    def _see(self, layer: int) -> Callable[..., None]:
        def see(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if layer in self._seen:
                return
            states = first_input((args, kwargs)).detach()
            made = first_output(output).detach()[..., list(self.features)]
            states, made = states.reshape(-1, states.shape[-1]), made.reshape(-1, made.shape[-1])
            some = torch.linspace(0, len(states) - 1, min(_SAMPLED, len(states))).long()
            some = some.to(states.device)
            self._seen[layer] = (states[some].clone(), made[some].clone())

        return see

    def _checked(self, module: nn.Module, layer: int) -> Rows:
        states, made = self._seen[layer]
        if any(hasattr(weight, "device_mesh") for weight in module.parameters()):
            raise SiteError(
                f"the weights of its down projection ({type(module).__name__}) are shards, which "
                "only a forward of the whole model brings together"
            )
        alone = bool(adding_hooks(module))
        rows = read_rows(module, states[:1], self.features, flat=self._flat(), alone=alone)
        expected = states.double().cpu() @ rows.weight.double().T + rows.bias.double()
        off = float((expected - made.double().cpu()).abs().max())
        size = float(made.double().abs().max().clamp_min(1e-9))
        if not off <= _TOLERANCE.get(states.dtype, _HALF_TOLERANCE) * size:
            raise SiteError(
                f"its down projection ({type(module).__name__}) is not linear in its input: its "
                f"rows miss what it gave by {off / size:.1%}"
            )
        return rows

    def _flat(self) -> bool:
        return self.anatomy.row.down in self.anatomy.row.flat


def read_rows(
    module: nn.Module,
    like: Float[Tensor, "1 neuron"],
    features: Sequence[int],
    *,
    flat: bool = False,
    alone: bool = False,
) -> Rows:
    """The rows of a down projection, by gradients, or unit by unit where it has none.

    Args:
        module: the projection.
        like: an input of the width, type and device that it takes; its values do not matter.
        features: the features to read.
        flat: whether it takes samples and tokens on one axis.
        alone: whether to run it without its hooks, because one adds a mixture of experts.
    """
    chosen = list(features)

    def run(states: Tensor) -> Tensor:
        given = states if flat else states[None]
        output = first_output(module.forward(given) if alone else module(given))
        return (output if flat else output[0])[:, chosen]

    zero = torch.zeros_like(like)
    with torch.no_grad():
        bias = run(zero)[0]
    made_in_inference = any(weight.is_inference() for weight in module.parameters())
    weight = None if made_in_inference else _by_gradient(run, zero)
    if weight is None:
        weight = _unit_by_unit(run, zero, bias)
    return Rows(weight.float().cpu(), bias.float().cpu())


def _by_gradient(
    run: Callable[[Tensor], Tensor], zero: Float[Tensor, "1 neuron"]
) -> Float[Tensor, "feature neuron"] | None:
    """The rows; None where no gradient flows, or the projection's backward pass is not written.

    Both are so in some quantised projections; any other error is the caller's to see.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        states = zero.clone().requires_grad_()
        output = run(states)[0]
        if not output.requires_grad:
            return None
        try:
            rows = [
                torch.autograd.grad(one, states, retain_graph=True, allow_unused=True)[0]
                for one in output
            ]
        except NotImplementedError:
            return None
    return None if any(row is None for row in rows) else torch.cat(rows)


@torch.no_grad()
def _unit_by_unit(
    run: Callable[[Tensor], Tensor],
    zero: Float[Tensor, "1 neuron"],
    bias: Float[Tensor, " feature"],
) -> Float[Tensor, "feature neuron"]:
    width = zero.shape[-1]
    columns = []
    for first in range(0, width, _ONE_HOTS):
        count = min(_ONE_HOTS, width - first)
        units = zero.repeat(count, 1)
        units[torch.arange(count), torch.arange(first, first + count)] = 1
        columns.append(run(units) - bias)
    return rearrange(torch.cat(columns), "neuron feature -> feature neuron")
