"""Puts a mixture of experts beside a part of every block of a frozen LLM, by hooks.

Names and code of the LLM stay as they are: a block gets a submodule ``mome``, which is told what
enters the block and its part, and adds to what the part gives. So everything that watches the part
sees the sum, which is what reaches the residual stream.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sinkscope.avsr.mome.experts import Mome
from sinkscope.avsr.mome_settings import MomeSettings
from sinkscope.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LLAMA", "Places", "add_mixtures", "attach_experts", "mixtures"]


@dataclass(frozen=True)
class Places:
    """The modules of a block that a mixture is attached to. "" is the block itself.

    Attributes:
        normalised: what the experts read is this module's input.
        residual: the stream before its norm is this module's input.
        output: they add to this module's output.
        multiplied: what the family multiplies that output by before it is added.
    """

    normalised: str
    residual: str
    output: str
    multiplied: float | int = 1


LLAMA: dict[str, Places] = {
    "attention": Places("self_attn", "", "self_attn"),
    "mlp": Places("mlp", "post_attention_layernorm", "mlp"),
    "layer": Places("self_attn", "", ""),
}
"""Where they go in a block of Llama's kind, by placement."""


def attach_experts(
    model: nn.Module,
    settings: MomeSettings,
    *,
    blocks: Iterable[nn.Module],
    hidden_size: int,
    places: Places,
) -> nn.Module:
    """Attaches a mixture to each block, in place, and freezes everything else of the model.

    Args:
        model: what is frozen.
        settings: of the mixtures.
        blocks: of the model.
        hidden_size: features of its residual stream.
        places: where in a block, for the placement of the settings.

    Raises:
        InputError: there are mixtures already.
    """
    if next(mixtures(model), None) is not None:
        raise InputError("attach_mome: the LLM has mixtures of experts already; load it afresh.")
    model.requires_grad_(False)
    for block in blocks:
        weight = next(block.parameters())
        mixture = AttachedMome(hidden_size, settings, multiplied=places.multiplied)
        block.mome = mixture.to(device=weight.device, dtype=weight.dtype)
        mixture.watch(block, places)
    return model


def add_mixtures(llm: "PreTrainedModel", settings: MomeSettings) -> nn.Module:
    """Attaches mixtures to a language model of Llama's kind, which `build_llm` makes, in place."""
    return attach_experts(
        llm,
        settings,
        blocks=llm.model.layers,
        hidden_size=llm.config.hidden_size,
        places=LLAMA[settings.placement],
    )


def mixtures(model: nn.Module) -> Iterator[tuple[str, Mome]]:
    """The mixtures of a model and their names, in the order of its blocks."""
    for name, module in model.named_modules():
        if isinstance(module, Mome):
            yield name, module


class _Read(dict[str, Tensor]):
    """What a mixture reads of a block while it runs."""

    def forget(self, *_: Any) -> None:
        """Lets go of it; also where the block failed."""
        self.clear()


class AttachedMome(Mome):
    """A mixture that hooks of its block feed and call."""

    def __init__(
        self, hidden_size: int, settings: MomeSettings, *, multiplied: float | int
    ) -> None:
        super().__init__(hidden_size, settings)
        self._multiplied = multiplied
        self._read = _Read()

    def watch(self, block: nn.Module, places: Places) -> None:
        """Attaches the hooks.

        The one that adds stands before all others, so that those that were there see the sum: what
        transformers collects as ``hidden_states`` is read by hooks that stay once they were used.
        """
        for module, hook in (
            (_part(block, places.residual), self._take_residual),
            (_part(block, places.normalised), self._take_normalised),
        ):
            module.register_forward_pre_hook(hook, with_kwargs=True)
        _part(block, places.output).register_forward_hook(self._add, prepend=True)
        block.register_forward_hook(self._read.forget, always_call=True)

    def _take_residual(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        self._read["residual"] = _states(args, kwargs)

    def _take_normalised(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        self._read["normalised"] = _states(args, kwargs)

    def _add(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        settings = self.settings
        added = self(self._read[settings.reads], self._read[settings.router_reads])
        first = output[0] if isinstance(output, tuple) else output
        total = first + (added / self._multiplied).view_as(first)
        return (total, *output[1:]) if isinstance(output, tuple) else total


def _part(block: nn.Module, path: str) -> nn.Module:
    return block.get_submodule(path)


def _states(args: Any, kwargs: Any) -> Tensor:
    """The states that a module is called with, by position or by name."""
    return args[0] if args else kwargs["hidden_states"]
