"""What the routers of a model decide in its forwards, and the loss that keeps experts in use.

Example:
    >>> with hold_routing(model.llm) as routing:                          # doctest: +SKIP
    ...     loss = sum(model(inputs).loss for inputs in pairs) / len(pairs)
    ...     loss = loss + balance_loss(routing, model.config.mome)
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
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
        mask: True at real tokens; None where the decoder was given none, or one of another form.
        with_gradient: whether it began with gradients.
        samples: how many.
        other_mask: what the mask was where it is of another form; "" where it is not.
        layers: the routing of every block that has a mixture, in order.
    """

    mask: Bool[Tensor, "sample token"] | None
    with_gradient: bool
    samples: int = 1
    other_mask: str = ""
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
        if routing.logits.ndim == 2:
            routing = Routing(*(part.unflatten(0, (self.samples, -1)) for part in routing))
        self.layers.append(routing)

    def counted(self, settings: MomeSettings) -> Bool[Tensor, "sample token"]:
        """The tokens that count in the statistics.

        Raises:
            InputError: the mask does not tell which tokens are padding, and these must not count.
        """
        if self.other_mask and not settings.balance_padding:
            raise InputError(
                f"balance_loss: the decoder was given {self.other_mask} as its mask, which does "
                "not tell what is padding; give one of (sample, token), or set balance_padding."
            )
        logits = self.layers[0].logits
        if self.mask is None or settings.balance_padding:
            return torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
        return self.mask[:, -logits.shape[1] :]


@contextmanager
def hold_routing(model: nn.Module) -> Iterator[list[HeldForward]]:
    """While open, the routing of every forward of the model; at the end it is let go.

    A repetition of blocks in the backward pass (checkpointing) is not held, nor is a forward of the
    decoder that failed.

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

    decoder = model.get_submodule(".".join(routed[0][0].split(".")[:-3]))

    def begin(_module: nn.Module, args: Any, kwargs: Any) -> None:
        names = inspect.signature(decoder.forward).parameters
        running[:] = [_begun(dict(zip(names, args, strict=False)) | kwargs)]

    def take(_module: nn.Module, _args: Any, routing: Routing) -> None:
        for forward in running:
            forward.take(routing)

    def end(_module: nn.Module, _args: Any, output: Any) -> None:
        if output is not None:
            held.extend(running)
        running.clear()

    handles = [one.gate.register_forward_hook(take) for _, one in routed]
    handles.append(decoder.register_forward_pre_hook(begin, with_kwargs=True, prepend=True))
    handles.append(decoder.register_forward_hook(end, always_call=True))
    try:
        yield held
    finally:
        for handle in handles:
            handle.remove()
        held.clear()


def _begun(given: Mapping[str, Any]) -> HeldForward:
    """A forward of the decoder, from its arguments."""
    mask: Any = given.get("attention_mask")
    flat = isinstance(mask, Tensor) and mask.ndim == 2
    tokens = given.get("inputs_embeds")
    tokens = given.get("input_ids") if tokens is None else tokens
    return HeldForward(
        mask.bool() if flat else None,
        torch.is_grad_enabled(),
        samples=1 if tokens is None else len(tokens),
        other_mask="" if flat or mask is None else _form(mask),
    )


def _form(mask: Any) -> str:
    if isinstance(mask, Tensor):
        return f"a tensor of shape {tuple(mask.shape)}"
    return f"a {type(mask).__name__}"


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
        InputError: no forward was held, or some that ran through other numbers of blocks; or see
            `HeldForward.counted`.
    """
    forwards = [one for one in held if one.layers]
    if not forwards:
        raise InputError("balance_loss: no forward was held; run the model inside hold_routing.")
    layers = {len(one.layers) for one in forwards}
    if len(layers) > 1:
        raise InputError(
            f"balance_loss: the forwards ran through {' and '.join(map(str, sorted(layers)))} "
            "blocks with experts; hold forwards through all blocks, without layer dropout."
        )
    over = settings.balance_over
    tokens = [_tokens(one.counted(settings), over) for one in forwards]
    means = []
    for routings in zip(*(one.layers for one in forwards), strict=True):
        groups = _groups(routings, tokens, over)
        means.append(torch.stack([_one_group(group, settings) for group in groups]).mean())
    return torch.stack(means).mean()


def _tokens(mask: Bool[Tensor, "sample token"], over: str) -> list[Tensor]:
    """The places of the tokens that count, on one axis: of each sequence, or of all."""
    places = mask.flatten().nonzero().squeeze(1)
    if over != "sequence":
        return [places]
    return [one for one in places.split(mask.sum(dim=1).tolist()) if len(one)]


def _groups(
    routings: Sequence[Routing], tokens: Sequence[Sequence[Tensor]], over: str
) -> list[Routing]:
    """The routing of tokens that are taken together, on one axis."""
    groups = [
        Routing(*(part.flatten(0, 1)[places] for part in routing))
        for routing, own in zip(routings, tokens, strict=True)
        for places in own
    ]
    if over == "step":
        return [Routing(*map(torch.cat, zip(*groups, strict=True)))]
    return groups


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
