"""Taps: where a plain hook reads a site of a block, and how it writes there.

Example:
    >>> put_output((torch.zeros(1), "cache"), torch.ones(1))
    (tensor([1.]), 'cache')
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from sinkscope.errors import SiteError

__all__ = [
    "Tap",
    "first_input",
    "first_output",
    "half_of_output",
    "multiplied_output",
    "one_stream",
    "put_half",
    "put_input",
    "put_multiplied",
    "put_output",
    "put_stream",
]


@dataclass(frozen=True)
class Tap:
    """Where a plain hook reads a site.

    Attributes:
        module: the module to hook.
        where: ``"input"`` for a forward pre-hook ``with_kwargs=True``, ``"output"`` for a forward
            hook.
        select: from what the hook is given, ``(args, kwargs)`` or the output, to the tensor.
        flat: whether that tensor has samples and tokens on one axis, ``(sample token) feature``.
        put: from what the hook is given and another tensor to what the hook must return, so that
            the model goes on with it; None where only a copy of the stream passes.
    """

    module: nn.Module
    where: Literal["input", "output"]
    select: Callable[[Any], Tensor]
    flat: bool = False
    put: Callable[[Any, Tensor], Any] | None = None

    def read(self, value: Any, *, samples: int) -> Float[Tensor, "sample token feature"]:
        """The site's value from what the hook is given, in a forward of ``samples`` samples."""
        tensor = self.select(value)
        if not self.flat:
            return tensor
        return rearrange(tensor, "(sample token) feature -> sample token feature", sample=samples)

    def write(self, value: Any, tensor: Float[Tensor, "sample token feature"]) -> Any:
        """What the hook must return, so that the site holds ``tensor``.

        Raises:
            SiteError: if nothing that is changed here would reach the residual stream.
        """
        if self.put is None:
            raise SiteError(
                "Only a copy of the residual stream passes resid_mid, and the router's "
                "probabilities are a by-product, so nothing can be changed there; change attn_out "
                "or expert_out, or resid_pre or resid_post."
            )
        if self.flat:
            tensor = rearrange(tensor, "sample token feature -> (sample token) feature")
        return self.put(value, tensor)


def first_input(value: tuple[tuple[Any, ...], dict[str, Any]]) -> Tensor:
    """The states that a module is called with, by position or as ``hidden_states``."""
    args, kwargs = value
    return args[0] if args else kwargs["hidden_states"]


def first_output(value: Any) -> Tensor:
    """The states that a module returns, alone or first in a tuple."""
    return value[0] if isinstance(value, tuple) else value


def half_of_output(value: Any, *, half: int) -> Tensor:
    """One half of a fused projection's features."""
    return first_output(value).chunk(2, dim=-1)[half]


def multiplied_output(value: Any, *, by: float) -> Tensor:
    """The states that a module returns, times the family's residual multiplier."""
    return first_output(value) * by


def one_stream(value: Any, *, select: Callable[[Any], Tensor], index: int) -> Tensor:
    """One of the streams that a block carries side by side on a first axis."""
    return select(value)[index]


def put_stream(
    value: Any,
    tensor: Tensor,
    *,
    select: Callable[[Any], Tensor],
    put: Callable[[Any, Tensor], Any],
    index: int,
) -> Any:
    """What the hook must return so that one of the streams is ``tensor``."""
    streams = list(select(value).unbind(0))
    streams[index] = tensor
    return put(value, torch.stack(streams))


def put_input(value: tuple[tuple[Any, ...], dict[str, Any]], tensor: Tensor) -> Any:
    """The arguments of a module with other states."""
    args, kwargs = value
    return ((tensor, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": tensor})


def put_output(value: Any, tensor: Tensor) -> Any:
    """What a module returns with other states."""
    return (tensor, *value[1:]) if isinstance(value, tuple) else tensor


def put_half(value: Any, tensor: Tensor, *, half: int) -> Any:
    """What a fused projection returns with another half."""
    halves = list(first_output(value).chunk(2, dim=-1))
    halves[half] = tensor
    return put_output(value, torch.cat(halves, dim=-1))


def put_multiplied(value: Any, tensor: Tensor, *, by: float) -> Any:
    """What a module returns so that, times the residual multiplier, it is ``tensor``."""
    return put_output(value, tensor / by)
