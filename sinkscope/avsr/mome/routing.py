"""What the routers of a model decide in its forwards, and the loss that keeps experts in use.

Example:
    >>> with hold_routing(model.llm) as routing:                          # doctest: +SKIP
    ...     loss = sum(model(inputs).loss for inputs in pairs) / len(pairs)
    ...     loss = loss + balance_loss(routing, model.config.mome)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sinkscope.avsr.mome.attach import mixtures
from sinkscope.avsr.mome.experts import Routing
from sinkscope.avsr.mome_settings import MomeSettings
from sinkscope.errors import InputError

__all__ = ["HeldForward", "balance_loss", "hold_routing"]


@dataclass
class HeldForward:
    """One forward of the decoder.

    Attributes:
        mask: True at real tokens; None where the decoder was given none.
        with_gradient: whether it began with gradients.
        layers: the routing of every block that has a mixture, in order.
    """

    mask: Bool[Tensor, "sample token"] | None
    with_gradient: bool
    layers: list[Routing] = field(default_factory=list)

    def take(self, routing: Routing) -> None:
        """Adds the routing of the next block, its tokens on two axes.

        Raises:
            InputError: the block runs without gradient inside a forward that has one.
        """
        if self.with_gradient and not torch.is_grad_enabled():
            raise InputError(
                "hold_routing: a block runs without gradient (reentrant checkpointing), so a loss "
                "on its routing would train nothing; checkpoint with use_reentrant=False."
            )
        samples = 1 if self.mask is None else len(self.mask)
        if routing.logits.ndim == 2:
            routing = Routing(*(part.unflatten(0, (samples, -1)) for part in routing))
        self.layers.append(routing)

    def counted(self, settings: MomeSettings) -> Bool[Tensor, "sample token"]:
        """The tokens that count in the statistics."""
        logits = self.layers[0].logits
        if self.mask is None or settings.balance_padding:
            return torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
        return self.mask[:, -logits.shape[1] :]


@contextmanager
def hold_routing(model: nn.Module) -> Iterator[list[HeldForward]]:
    """While open, the routing of every forward of the model; at the end it is let go.

    A repetition of blocks in the backward pass (checkpointing) is not held.

    Args:
        model: with mixtures; the LLM, or something that holds it.

    Raises:
        InputError: there are no routed experts; or, in a forward, blocks that are checkpointed in a
            way that takes their gradients.
    """
    routed = [(name, one) for name, one in mixtures(model) if one.settings.routed]
    if not routed:
        raise InputError("hold_routing: the model has no routed experts; attach them first.")
    held: list[HeldForward] = []
    running: list[HeldForward] = []

    def begin(_module: nn.Module, _args: Any, kwargs: Any) -> None:
        mask = kwargs.get("attention_mask")
        flat = isinstance(mask, Tensor) and mask.ndim == 2
        held.append(HeldForward(mask.bool() if flat else None, torch.is_grad_enabled()))
        running[:] = held[-1:]

    def take(_module: nn.Module, _args: Any, routing: Routing) -> None:
        for forward in running:
            forward.take(routing)

    decoder = model.get_submodule(".".join(routed[0][0].split(".")[:-3]))
    handles = [one.gate.register_forward_hook(take) for _, one in routed]
    handles.append(decoder.register_forward_pre_hook(begin, with_kwargs=True, prepend=True))
    handles.append(decoder.register_forward_hook(lambda *_: running.clear(), always_call=True))
    try:
        yield held
    finally:
        for handle in handles:
            handle.remove()
        held.clear()


def balance_loss(held: list[HeldForward], settings: MomeSettings) -> Float[Tensor, ""]:
    """``E · sum_e f_e p_e``, the mean over layers; and the z-loss where it has a weight.

    ``f_e`` is the share of tokens that chose expert e (over ``top_k`` in the form of Switch
    Transformers, arXiv 2101.03961, eq. 4), ``p_e`` the mean probability that its router gave it.

    Args:
        held: from `hold_routing`.
        settings: form, tokens and weights.

    Returns:
        Times its weight; balanced routing gives 1 (``top_k`` in Mixtral's form) before that.

    Raises:
        InputError: no forward was held.
    """
    forwards = [one for one in held if one.layers]
    if not forwards:
        raise InputError("balance_loss: no forward was held; run the model inside hold_routing.")
    counted = [one.counted(settings) for one in forwards]
    means = []
    for layer in range(len(forwards[0].layers)):
        routings = [one.layers[layer] for one in forwards]
        groups = _groups(routings, counted, settings.balance_over)
        means.append(torch.stack([_one_group(group, settings) for group in groups]).mean())
    return torch.stack(means).mean()


def _groups(routings: list[Routing], counted: list[Tensor], over: str) -> list[Routing]:
    """The routing of tokens that are taken together, on one axis."""
    rows = [
        [Routing(*(part[row][mask[row]] for part in routing)) for row in range(len(mask))]
        for routing, mask in zip(routings, counted, strict=True)
    ]
    together = {
        "step": [[row for forward in rows for row in forward]],
        "forward": rows,
        "sequence": [[row] for forward in rows for row in forward],
    }[over]
    return [Routing(*map(torch.cat, zip(*group, strict=True))) for group in together]


def _one_group(routing: Routing, settings: MomeSettings) -> Tensor:
    shares = (routing.gates > 0).to(routing.probabilities).mean(dim=0)
    if settings.balance == "switch":
        shares = shares / settings.top_k
    mean = routing.probabilities.mean(dim=0)
    loss = settings.balance_weight * settings.routed * (shares * mean).sum()
    if settings.z_weight:
        sizes = routing.logits.to(mean).logsumexp(dim=-1).square()
        loss = loss + settings.z_weight * sizes.mean()
    return loss
