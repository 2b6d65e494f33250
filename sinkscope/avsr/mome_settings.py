"""What a mixture of Matryoshka experts is made of, and how many parameters that is. No torch.

Method: MoME, arXiv 2510.04136. Its official code is not public; every choice that we could not
establish is a field here, with a default and the reason for it.

Example:
    >>> paper = MomeSettings()
    >>> count_experts(paper, hidden_size=3072, layers=28).active
    12732048
"""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple

from sinkscope.errors import InputError

__all__ = ["CHOICES", "ExpertCount", "MomeSettings", "count_experts"]

CHOICES: dict[str, tuple[str, ...]] = {
    "placement": ("attention", "mlp", "layer"),
    "reads": ("normalised", "residual"),
    "router_reads": ("normalised", "residual"),
    "softmax": ("all", "selected"),
    "up_init": ("zeros", "normal"),
    "balance": ("switch", "mixtral"),
    "balance_over": ("step", "forward", "sequence"),
}
"""The values of every field that is a word."""

_LEAST = {"bottleneck": 1, "routed": 0, "shared": 0, "top_k": 0}
"""The smallest value of every field that counts something."""

_TRUTHS = ("renormalise", "router_bias", "expert_bias", "balance_padding")


@dataclass(frozen=True)
class MomeSettings:
    """One mixture of experts a block, parallel to a part of it.

    The defaults are those of MoME-23/4: 23 routed experts of which 4 are active, one shared.

    Attributes:
        placement: what the experts are parallel to: ``"attention"``, ``"mlp"`` or the whole
            ``"layer"``.
        routed: experts that the router chooses from.
        top_k: how many of them a token gets.
        shared: experts that every token gets.
        bottleneck: units of an expert; 1 is enough to work.
        reads: what enters the experts: ``"normalised"`` is what enters the part that they are
            parallel to (of a layer: its attention), ``"residual"`` the stream before that norm.
        router_reads: the same for the router.
        softmax: ``"all"`` takes it over all routed experts and then chooses; ``"selected"`` over
            the chosen ones. With ``renormalise`` the two are equal.
        renormalise: whether the chosen gates are scaled to the sum 1.
        router_bias: whether the router has one.
        expert_bias: whether the experts have them; the published count of 12.7 M needs them.
        up_init: ``"zeros"`` begins at the outputs of the LLM alone, to the bit; ``"normal"`` at
            small random ones.
        scale: what the sum of the experts is multiplied by.
        balance: ``"switch"`` is ``E · sum_e f_e p_e`` with shares ``f`` that sum to 1, so 1 when
            balanced; ``"mixtral"`` has shares that sum to ``top_k``.
        balance_over: the tokens whose shares and probabilities are multiplied: of all forwards of a
            ``"step"``, of one ``"forward"``, or of one ``"sequence"``.
        balance_padding: whether padding counts among them.
        balance_weight: of the balance loss in training.
        z_weight: of the mean squared log-sum-exp of the router's logits; 0 leaves it out.
    """

    placement: str = "attention"
    routed: int = 23
    top_k: int = 4
    shared: int = 1
    bottleneck: int = 12
    reads: str = "normalised"
    router_reads: str = "normalised"
    softmax: str = "all"
    renormalise: bool = True
    router_bias: bool = False
    expert_bias: bool = True
    up_init: str = "zeros"
    scale: float | int = 1.0
    balance: str = "switch"
    balance_over: str = "step"
    balance_padding: bool = False
    balance_weight: float | int = 0.01
    z_weight: float | int = 0.0

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            self._check(name, getattr(self, name) in known, f"give one of {', '.join(known)}")
        for name in _TRUTHS:
            self._check(name, isinstance(getattr(self, name), bool), "give true or false")
        for name, least in _LEAST.items():
            whole = _is_number(getattr(self, name), Integral) and getattr(self, name) >= least
            self._check(name, whole, f"give {least} or more, a whole number")
        self._check("scale", _is_number(self.scale, Real), "give a finite number")
        for name in ("balance_weight", "z_weight"):
            weight = _is_number(getattr(self, name), Real) and getattr(self, name) >= 0
            self._check(name, weight, "give 0 or more")
        if not self.routed + self.shared:
            raise InputError("mome: there are no experts; give routed or shared ones.")
        if not min(1, self.routed) <= self.top_k <= self.routed:
            raise InputError(
                f"mome: top_k is {self.top_k} of {self.routed} routed experts; give a number from "
                f"{min(1, self.routed)} to {self.routed}."
            )

    def _check(self, name: str, right: bool, what_to_give: str) -> None:
        if not right:
            raise InputError(f"mome: {name} is {getattr(self, name)!r}; {what_to_give}.")

    @property
    def experts(self) -> int:
        """Shared and routed ones; the shared ones come first everywhere."""
        return self.shared + self.routed


def _is_number(value: Any, kind: type) -> bool:
    """Whether a value is a finite number of a kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


class ExpertCount(NamedTuple):
    """Parameters of the mixtures of all blocks: what one token uses, and what is stored."""

    active: int
    total: int


def count_experts(settings: MomeSettings, *, hidden_size: int, layers: int) -> ExpertCount:
    """Parameters of the mixtures of all blocks; the router counts as active.

    Args:
        settings: of the mixtures.
        hidden_size: features of the residual stream.
        layers: blocks.
    """
    width = settings.bottleneck
    biases = width + hidden_size if settings.expert_bias else 0
    expert = 2 * hidden_size * width + biases
    router = settings.routed * (hidden_size + settings.router_bias)
    active = settings.shared + settings.top_k
    return ExpertCount(
        layers * (active * expert + router), layers * (settings.experts * expert + router)
    )
