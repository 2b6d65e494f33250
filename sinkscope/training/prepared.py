"""What a run adds to a model before it trains, and what of it learns. Depends on torch and avsr."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sinkscope.avsr.lora import attach_lora
from sinkscope.avsr.lora_schemes import all_adapters, ties_rate
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.mome import add_mixtures
from sinkscope.avsr.projector import Projector
from sinkscope.errors import InputError
from sinkscope.training.config import TrainConfig
from sinkscope.training.spoken import SpokenModel

__all__ = ["prepare_for_training"]

DELIMITERS = ("audio_open", "audio_close", "video_open", "video_close")


def prepare_for_training(model: LlamaAvsr, config: TrainConfig) -> SpokenModel:
    """Adds projectors, branches and experts where they are asked for, and lets learn what is to.

    The rates of the run become the model's own, the first one its default. What is added is drawn
    from the run's seed.

    Raises:
        InputError: LoRA is to be trained and there is none, or branches or experts are there
            already; the model has no projector for a rate.
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        _give_projectors(model, config)
        if config.lora is not None:
            _refuse_both(model, "lora", "mome")
            attach_lora(model.llm, config.lora, adapters=all_adapters(config.lora, model.config))
            model.config = replace(model.config, lora=config.lora)
        if config.mome is not None:
            _refuse_both(model, "mome", "lora")
            add_mixtures(model.llm, config.mome)
            model.config = replace(model.config, mome=config.mome)
    branches = [name for name, _ in model.llm.named_parameters() if ".lora_" in name]
    if config.llm == "lora" and not branches:
        raise InputError(
            "config: llm is 'lora', but the model has no LoRA branches; give lora with reduction "
            "and alpha, or use llm: full."
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_learns(name, config))
    if config.delimiters and config.llm != "full":
        _learn_delimiters(model)
    for module in model.llm.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = config.dropout  # pyright: ignore[reportArgumentType]
    return SpokenModel(model)


def _give_projectors(model: LlamaAvsr, config: TrainConfig) -> None:
    """Gives the model the rates of the run, and a projector for each where it is to have one."""
    before, asked = model.config, {"audio": config.audio_rates}
    given = {name: asked.get(name, config.video_rates) for name in before.streams}
    rates = {name: tuple(dict.fromkeys(own)) for name, own in given.items() if own}
    if before.projectors == "per_rate" and config.projectors == "shared":
        raise InputError(
            "config: projectors is 'shared', but the model has a projector for each rate, and none "
            "that knows them all; leave projectors out."
        )
    for name, own in rates.items():
        if before.projectors == "per_rate" or ties_rate(before.lora, name):
            rates[name] = _with_others(name, own, before.rates(name))
    per_rate = "per_rate" in (before.projectors, config.projectors)
    kind = "per_rate" if per_rate else "shared"
    changed = {f"{name}_rates": own for name, own in rates.items()}
    model.config = replace(before, projectors=kind, **changed)
    if per_rate and before.projectors == "shared":
        for name in before.streams:
            setattr(model, f"{name}_projector", _copies(model, name))


def _with_others(stream: str, asked: tuple[int, ...], known: tuple[int, ...]) -> tuple[int, ...]:
    """The rates that are trained, then the others that the model has parts of its own for."""
    for rate in asked:
        if rate not in known:
            raise InputError(
                f"config: {stream} rate {rate} is to be trained, but the model has projectors or "
                f"branches of its own for {', '.join(map(str, known))} alone; choose among these."
            )
    return tuple(dict.fromkeys((*asked, *known)))


def _copies(model: LlamaAvsr, stream: str) -> nn.ModuleDict:
    """A projector for each rate: copies of the shared one, or fresh where its width differs."""
    shared: Any = getattr(model, f"{stream}_projector")
    config, made = model.config, {}
    for rate in model.config.rates(stream):
        width = model.encoder(stream).width * (rate if config.compression == "stack" else 1)
        if width == shared[0].in_features:
            made[str(rate)] = deepcopy(shared)
            continue
        norm = config.ends_in_norm(stream)
        fresh = Projector(width, config.projector_width, config.hidden_size, norm=norm)
        made[str(rate)] = fresh.to(shared[0].weight)
    return nn.ModuleDict(made)


def _refuse_both(model: LlamaAvsr, new: str, there: str) -> None:
    if getattr(model.config, there) is not None:
        raise InputError(
            f"config: {new} is given, but the model has {there} already, and an LLM has one of "
            f"them; leave {new} out, or choose a model without {there}."
        )


def _learns(name: str, config: TrainConfig) -> bool:
    if not name.startswith("llm."):
        return "projector" in name.split(".")[0] or config.encoders
    if config.llm == "lora":
        return ".lora_" in name
    return config.llm == "full" or ".mome." in name


def _learn_delimiters(model: LlamaAvsr) -> None:
    """Only the delimiters' rows get a gradient (of a tied output head, too)."""
    weight: Any = model.llm.get_input_embeddings().weight
    rows = torch.zeros(len(weight), 1, device=weight.device)
    rows[[model.ids[name] for name in DELIMITERS]] = 1
    weight.requires_grad_(True)
    weight.register_hook(lambda gradient: gradient * rows.to(gradient))
