"""LoRA on the query and value projections, in the reduction-factor convention of Llama-AVSR.

Llama-AVSR (arXiv 2409.12319) names a reduction factor R, not a rank: the rank is
``round(H / R)``, the update is scaled by ``alpha / R``, the down matrix begins at zero and the up
matrix at random, the reverse of the usual choice. PEFT does the rest; its ``lora_alpha`` is
``rank · alpha / R``.
"""

import math
from typing import TYPE_CHECKING, Any

from torch import nn

from sinkscope.avsr.config import LoraSettings
from sinkscope.errors import InputError

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

__all__ = ["attach_lora", "lora_rank", "merge_lora"]

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


def attach_lora(llm: "LlamaForCausalLM", settings: LoraSettings) -> "LlamaForCausalLM":
    """Adds LoRA branches to q and v in place, and freezes everything else of the LLM.

    The outputs do not change: the down matrices are zero at first. Key-value heads may be fewer
    than query heads.

    Raises:
        InputError: see `lora_rank`; or the LLM has LoRA branches already.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if _branches(llm):
        raise InputError("attach_lora: the LLM has LoRA branches already; merge them first.")
    rank = lora_rank(llm.config.hidden_size, reduction=settings.reduction)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank * settings.alpha / settings.reduction,  # pyright: ignore[reportArgumentType]
        target_modules=list(TARGETS),
        lora_dropout=0.0,
        bias="none",
    )
    inject_adapter_in_model(config, llm)
    for _, branch in _branches(llm):
        nn.init.zeros_(branch.lora_A["default"].weight)
        nn.init.kaiming_uniform_(branch.lora_B["default"].weight, a=math.sqrt(5))
    return llm


def merge_lora(llm: "LlamaForCausalLM") -> "LlamaForCausalLM":
    """Adds the branches' updates to the weights, in place, and removes the branches."""
    for name, branch in _branches(llm):
        branch.merge()
        llm.set_submodule(name, branch.get_base_layer())
    return llm


def _branches(llm: nn.Module) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return [(name, module) for name, module in llm.named_modules() if isinstance(module, LoraLayer)]
