"""LoRA on the query and value projections, in the reduction-factor convention of Llama-AVSR.

Llama-AVSR (arXiv 2409.12319) names a reduction factor R, not a rank: the rank is
``round(H / R)``, the update is scaled by ``alpha / R``, the down matrix begins at zero and the up
matrix at random, the reverse of the usual choice. PEFT does the rest; its ``lora_alpha`` is
``rank · alpha / R``.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from sinkscope.avsr.config import LoraSettings
from sinkscope.avsr.lora_schemes import SHARED, is_plain
from sinkscope.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "TARGETS",
    "activated",
    "adapters_of",
    "attach_lora",
    "branches_of",
    "lora_rank",
    "merge_lora",
    "peft_config",
]

TARGETS = ("q_proj", "v_proj")
"""The projections that have a LoRA branch."""


def lora_rank(hidden_size: int, *, reduction: float | int) -> int:
    """The rank that a reduction factor means for a hidden size.

    Raises:
        InputError: the factor is not positive, or so large that no rank is left.

    >>> lora_rank(2048, reduction=32), lora_rank(3072, reduction=32), lora_rank(4096, reduction=64)
    (64, 96, 64)
    """
    rank = round(hidden_size / reduction) if reduction > 0 else 0
    if rank < 1:
        raise InputError(
            f"LoRA: a reduction factor of {reduction} leaves no rank at hidden size {hidden_size}; "
            "give one between 1 and the hidden size."
        )
    return rank


def attach_lora(
    llm: "PreTrainedModel", settings: LoraSettings, *, adapters: Sequence[str] | None = None
) -> "PreTrainedModel":
    """Adds LoRA branches to q and v in place, and freezes everything else of the LLM.

    The outputs do not change: the down matrices are zero at first. Key-value heads may be fewer
    than query heads. Afterwards only the shared branch is active, if there is one: see `activated`.

    Args:
        llm: what gets branches.
        settings: of each of them.
        adapters: their names, from `sinkscope.avsr.lora_schemes.all_adapters`; may be left out
            where the scheme has one branch for all.

    Raises:
        InputError: see `lora_rank`; or the LLM has LoRA branches already; or their names are
            missing.
    """
    from peft import LoraModel

    if branches_of(llm):
        raise InputError("attach_lora: the LLM has LoRA branches already; merge them first.")
    if adapters is None and not is_plain(settings):
        raise InputError(
            f"attach_lora: which branches scheme {settings.scheme} has depends on the model's "
            "streams and rates; give adapters=all_adapters(settings, config)."
        )
    rank = lora_rank(llm.config.hidden_size, reduction=settings.reduction)
    config = peft_config(rank, rank * settings.alpha / settings.reduction)
    first, *others = adapters or (SHARED,)
    tuner = LoraModel(llm, config, first)
    for name in others:
        tuner.peft_config[name] = config
        tuner.inject_adapter(llm, name)
    for _, branch in branches_of(llm):
        for name in (first, *others):
            nn.init.zeros_(branch.lora_A[name].weight)
            nn.init.kaiming_uniform_(branch.lora_B[name].weight, a=math.sqrt(5))
    if others:
        _activate(llm, [SHARED] if SHARED in (first, *others) else [])
    for name, value in llm.named_parameters():
        value.requires_grad_(".lora_" in name)
    return llm


def adapters_of(llm: nn.Module) -> tuple[str, ...]:
    """The names of the branches that an LLM has."""
    return tuple(dict.fromkeys(name for _, branch in branches_of(llm) for name in branch.lora_A))


@contextmanager
def activated(llm: nn.Module, adapters: Sequence[str]) -> Iterator[None]:
    """While open, these branches are active and no others; afterwards those that were before.

    What is trained does not change, and a layer that is computed again for its gradient (gradient
    checkpointing) is computed with the branches of its own pass, though this is closed by then.

    Raises:
        InputError: the LLM has no such branch.
    """
    missing = [name for name in adapters if name not in adapters_of(llm)]
    if missing:
        raise InputError(
            f"The LLM has no LoRA branch {missing[0]!r}; it has "
            f"{', '.join(adapters_of(llm)) or 'none'}: use a modality and rates of these."
        )
    before = {name: list(branch.active_adapters) for name, branch in branches_of(llm)}
    kept = {module: module._gradient_checkpointing_func for module in _checkpointed(llm)}
    for module, function in kept.items():
        module._gradient_checkpointing_func = partial(_with_branches, module, adapters, function)
    _activate(llm, adapters)
    try:
        yield
    finally:
        for module, function in kept.items():
            module._gradient_checkpointing_func = function
        for name, branch in branches_of(llm):
            _set_active(branch, before[name])


def merge_lora(
    llm: "PreTrainedModel", *, adapters: Sequence[str] | None = None
) -> "PreTrainedModel":
    """Adds the branches' updates to the weights, in place, and removes all branches.

    Args:
        llm: with branches.
        adapters: which of them are added; may be left out where there is only one.

    Raises:
        InputError: there are several, and it is not said which to add; or there is no such branch.
    """
    there = adapters_of(llm)
    if adapters is None and len(there) > 1:
        raise InputError(
            f"merge_lora: the LLM has branches {', '.join(there)}, which do not work all at once; "
            "say with adapters= which of them to add."
        )
    unknown = [name for name in adapters or () if name not in there]
    if unknown:
        raise InputError(
            f"merge_lora: the LLM has no branch {unknown[0]!r}; use some of "
            f"{', '.join(there) or 'none'}."
        )
    for name, branch in branches_of(llm):
        branch.merge(adapter_names=list(there if adapters is None else adapters))
        llm.set_submodule(name, branch.get_base_layer())
    return llm


def peft_config(rank: int, alpha: float | int) -> Any:
    """A branch's configuration in PEFT, whose update is scaled by ``alpha / rank``."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]
        target_modules=list(TARGETS),
        lora_dropout=0.0,
        bias="none",
    )


def _activate(llm: nn.Module, adapters: Sequence[str]) -> None:
    for _, branch in branches_of(llm):
        _set_active(branch, adapters)


def _set_active(branch: Any, adapters: Sequence[str]) -> None:
    """PEFT's own way would also decide what is trained; that stays as it is."""
    trained = {value: value.requires_grad for value in branch.parameters()}
    branch.set_adapter(list(adapters))
    for value, learns in trained.items():
        value.requires_grad_(learns)


def _checkpointed(llm: nn.Module) -> list[Any]:
    return [module for module in llm.modules() if hasattr(module, "_gradient_checkpointing_func")]


def _with_branches(
    module: nn.Module,
    adapters: Sequence[str],
    checkpoint: Any,
    layer: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Checkpoints a layer whose every run, the one in the backward pass too, has these branches."""

    def run(*inputs: Any, **options: Any) -> Any:
        before = [(branch, list(branch.active_adapters)) for _, branch in branches_of(module)]
        _activate(module, adapters)
        try:
            return layer(*inputs, **options)
        finally:
            for branch, own in before:
                _set_active(branch, own)

    return checkpoint(run, *args, **kwargs)


def branches_of(llm: nn.Module) -> list[tuple[str, Any]]:
    """PEFT's layers by the names of the projections that they stand for."""
    from peft.tuners.lora import LoraLayer

    return [(name, module) for name, module in llm.named_modules() if isinstance(module, LoraLayer)]
