"""What a run adds to a model before it trains, and what of it learns. Depends on torch and avsr."""

from typing import Any

import torch

from sinkscope.avsr.adapting import adapt
from sinkscope.avsr.model import LlamaAvsr
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
        try:
            adapt(
                model,
                lora=config.lora,
                mome=config.mome,
                projectors=config.projectors,
                audio_rates=config.audio_rates,
                video_rates=config.video_rates,
            )
        except InputError as error:
            raise InputError(f"config: {error}") from error
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


def _learns(name: str, config: TrainConfig) -> bool:
    if not name.startswith("llm."):
        return "projector" in name.split(".")[0] or config.encoders
    if config.llm == "lora":
        return ".lora_" in name
    return config.llm == "full" or (config.llm == "frozen" and ".mome." in name)


def _learn_delimiters(model: LlamaAvsr) -> None:
    """Only the delimiters' rows get a gradient (of a tied output head, too)."""
    weight: Any = model.llm.get_input_embeddings().weight
    rows = torch.zeros(len(weight), 1, device=weight.device)
    rows[[model.ids[name] for name in DELIMITERS]] = 1
    weight.requires_grad_(True)
    weight.register_hook(lambda gradient: gradient * rows.to(gradient))
