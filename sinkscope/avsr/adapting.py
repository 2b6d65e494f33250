"""Gives a trained model what it is to be fine-tuned with: rates, projectors, branches, experts.

Example:
    >>> one = adapted(model, projectors="per_rate", mome=MomeSettings())   # doctest: +SKIP
"""

from copy import deepcopy
from dataclasses import replace
from typing import Any

from torch import nn

from sinkscope.avsr.config import AvsrConfig, LoraSettings
from sinkscope.avsr.lora import attach_lora, branches_of, lora_rank
from sinkscope.avsr.lora_schemes import all_adapters, ties_rate
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.mome import MomeSettings, add_mixtures, mixtures
from sinkscope.avsr.projector import Projector
from sinkscope.errors import InputError

__all__ = ["adapt", "adapted"]


def adapted(model: LlamaAvsr, **changes: Any) -> LlamaAvsr:
    """A copy of a model with fresh branches, experts or projectors; see `adapt`."""
    return adapt(deepcopy(model), **changes)


def adapt(
    model: LlamaAvsr,
    *,
    lora: LoraSettings | None = None,
    mome: MomeSettings | None = None,
    projectors: str | None = None,
    audio_rates: tuple[int, ...] | None = None,
    video_rates: tuple[int, ...] | None = None,
) -> LlamaAvsr:
    """Give a model fresh branches, experts or projectors, in place.

    Projectors of one rate each begin as copies of the shared one, and so hear what it heard (where
    frames are stacked they differ in width, and are drawn). Fresh branches and experts change
    nothing at first; of the LLM, they alone are left to be trained.

    Args:
        model: what is changed.
        lora: of fresh branches.
        mome: of fresh experts.
        projectors: ``"per_rate"`` or ``"shared"``; None leaves them.
        audio_rates: of the model from now on, the first one its default; None leaves them. A model
            that has parts of its own for a rate keeps that rate.
        video_rates: the same for video, and for the one sequence of a joint encoder.

    Returns:
        The model that was given.

    Raises:
        InputError: it has branches or experts already, or no projector or branch for a rate; or
            lora and mome are both given. The model is then what it was.
    """
    before = model.config
    _refuse_additions(model, lora, mome)
    fronts = _with_rates(before, projectors, {"audio": audio_rates, "video": video_rates})
    model.config = replace(fronts, lora=lora or before.lora, mome=mome or before.mome)
    if (before.projectors, fronts.projectors) == ("shared", "per_rate"):
        for name in before.streams:
            setattr(model, f"{name}_projector", _copies(model, name))
    if lora is not None:
        attach_lora(model.llm, lora, adapters=all_adapters(lora, model.config))
    if mome is not None:
        add_mixtures(model.llm, mome)
    return model


def _refuse_additions(
    model: LlamaAvsr, lora: LoraSettings | None, mome: MomeSettings | None
) -> None:
    """Refuses branches and experts that the model cannot be given."""
    config = model.config
    if lora is not None and mome is not None:
        raise InputError("lora and mome are both given, and an LLM has one of them; leave one out.")
    for new, there in (("lora", "mome"), ("mome", "lora")):
        if {"lora": lora, "mome": mome}[new] is not None and getattr(config, there) is not None:
            raise InputError(
                f"{new} is given, but the model has {there} already, and an LLM has one of them; "
                f"leave {new} out, or choose a model without {there}."
            )
    if lora is not None:
        lora_rank(config.hidden_size, reduction=lora.reduction)
        if branches_of(model.llm):
            raise InputError(
                "lora is given, but the LLM has LoRA branches already; merge them first, or leave "
                "lora out to train these."
            )
    if mome is not None and next(mixtures(model.llm), None) is not None:
        raise InputError(
            "mome is given, but the LLM has mixtures of experts already; load it afresh, or leave "
            "mome out to train these."
        )


def _with_rates(
    before: AvsrConfig, kind: str | None, asked: dict[str, tuple[int, ...] | None]
) -> AvsrConfig:
    """The configuration with these projectors and rates."""
    if kind not in (None, "shared", "per_rate"):
        raise InputError(f"projectors is {kind!r}; use 'shared' or 'per_rate', or leave it out.")
    given = {name: asked.get(name, asked["video"]) for name in before.streams}
    rates = {name: tuple(dict.fromkeys(own)) for name, own in given.items() if own}
    if before.projectors == "per_rate" and kind == "shared":
        raise InputError(
            "projectors is 'shared', but the model has a projector for each rate, and none that "
            "knows them all; leave projectors out."
        )
    for name, own in rates.items():
        if before.projectors == "per_rate" or ties_rate(before.lora, name):
            rates[name] = _with_others(name, own, before.rates(name))
    per_rate = "per_rate" in (before.projectors, kind)
    for name, own in rates.items():
        if before.compression == "stack" and not per_rate and own != before.rates(name):
            stacked = before.rates(name)[0]
            raise InputError(
                f"{name} rates {', '.join(map(str, own))} are asked for, but the shared {name} "
                f"projector takes {stacked} stacked frames and no other number; leave the rates "
                "out, or use projectors='per_rate'."
            )
    changed: dict[str, Any] = {f"{name}_rates": own for name, own in rates.items()}
    return replace(before, projectors="per_rate" if per_rate else "shared", **changed)


def _with_others(stream: str, asked: tuple[int, ...], known: tuple[int, ...]) -> tuple[int, ...]:
    """The rates that are asked for, then the others that the model has parts of its own for."""
    for rate in asked:
        if rate not in known:
            raise InputError(
                f"{stream} rate {rate} is to be trained, but the model has projectors or branches "
                f"of its own for {', '.join(map(str, known))} alone; choose among these."
            )
    return tuple(dict.fromkeys((*asked, *known)))


def _copies(model: LlamaAvsr, stream: str) -> nn.ModuleDict:
    """A projector for each rate: copies of the shared one, or fresh where its width differs."""
    shared: Any = getattr(model, f"{stream}_projector")
    config, made = model.config, {}
    for rate in config.rates(stream):
        width = model.encoder(stream).width * (rate if config.compression == "stack" else 1)
        if width == shared[0].in_features:
            made[str(rate)] = deepcopy(shared)
            continue
        norm = config.ends_in_norm(stream)
        fresh = Projector(width, config.projector_width, config.hidden_size, norm=norm)
        made[str(rate)] = fresh.to(shared[0].weight)
    return nn.ModuleDict(made)
