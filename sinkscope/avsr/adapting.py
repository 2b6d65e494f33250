"""A model of other adapters on the weights of a trained one.

Example:
    >>> one = adapted(model, projectors="per_rate", mome=MomeSettings())   # doctest: +SKIP
"""

import re
from dataclasses import replace
from typing import Any

from torch import Tensor

from sinkscope.avsr.config import AvsrConfig
from sinkscope.avsr.lora_names import peft_name
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.errors import InputError

__all__ = ["adapted"]


def adapted(model: LlamaAvsr, **changes: Any) -> LlamaAvsr:
    """A new model with fresh LoRA branches, mixtures of experts or projectors a rate.

    Encoders and LLM hold copies of the given model's weights. Projectors of one rate each begin as
    copies of the shared one, and so hear what it heard. Fresh branches and mixtures change nothing
    at first; they, and they alone of the LLM, are left to be trained.

    Args:
        model: without branches and mixtures.
        changes: fields of its configuration: ``lora``, ``mome``, ``projectors``, ``audio_rates``,
            ``video_rates``.

    Raises:
        InputError: the model has branches or mixtures, or a projector a rate; or a change that its
            weights do not allow.
    """
    old, new = model.config, replace(model.config, **changes)
    if old.lora is not None or old.mome is not None or old.projectors == "per_rate":
        raise InputError(
            "adapted: the model has LoRA branches, mixtures of experts or a projector a rate "
            "already; begin from one that has not."
        )
    if old.compression == "stack" and new.projectors == "per_rate":
        raise InputError(
            "adapted: projectors of stacked frames differ in width from rate to rate, so one is no "
            "copy of another; build a new model and train its projectors."
        )
    found = LlamaAvsr(new, model.tokenizer)
    state: dict[str, Tensor] = {
        own: value for name, value in model.state_dict().items() for own in _names(name, new)
    }
    lacking = set(state) - set(found.state_dict())
    fresh = set(found.state_dict()) - set(state)
    odd = lacking | {name for name in fresh if not re.search(r"\.(lora_[AB]|mome)\.", name)}
    if odd:
        raise InputError(f"adapted: {min(odd)} is in one of the two models only; change less.")
    found.load_state_dict(state, strict=False)
    found.llm.set_attn_implementation(model.llm.config._attn_implementation or "eager")
    return found.to(next(model.parameters()).device)


def _names(name: str, config: AvsrConfig) -> list[str]:
    """What a weight is called in the new model; a projector's, once for each rate."""
    part, _, rest = name.partition(".")
    if part == "llm" and config.lora is not None:
        return [f"llm.{peft_name(rest)}"]
    if part.endswith("_projector") and config.projectors == "per_rate":
        rates = config.rates(part.removesuffix("_projector"))
        return [f"{part}.{rate}.{rest}" for rate in rates]
    return [name]
