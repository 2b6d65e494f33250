"""An audio-visual LLM as the Trainer runs it: batches of encoder inputs in, a loss out.

Also says what of it is trained. Depends on torch and avsr.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sinkscope.avsr.lora import attach_lora
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.errors import CheckpointError, InputError
from sinkscope.training.config import TrainConfig

__all__ = ["SpokenModel", "prepare_for_training"]

STREAMS = ("audio", "video", "audiovisual")
DELIMITERS = ("audio_open", "audio_close", "video_open", "video_close")


class _Loaded(NamedTuple):
    """What torch says of a state that it read."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class SpokenModel(nn.Module):
    """Wraps an audio-visual LLM; its state is what is trained, and nothing else.

    Encoders that are not trained stay in evaluation mode and make no graph.

    Args:
        model: after `prepare_for_training`.
    """

    accepts_loss_kwargs = True

    def __init__(self, model: LlamaAvsr) -> None:
        super().__init__()
        self.model = model

    def train(self, mode: bool = True) -> "SpokenModel":
        """Training mode, but for encoders that are not trained."""
        super().train(mode)
        for encoder in self._encoders():
            encoder.train(mode and _is_trained(encoder))
        return self

    def forward(
        self,
        streams: Mapping[str, Mapping[str, Any]],
        texts: Sequence[str],
        rates: Mapping[str, int],
        **loss: Any,
    ) -> Any:
        """The LLM's output, with its loss over the transcripts.

        Args:
            streams: for each stream ``lengths`` (feature frames of each sample), and ``batch``
                (what enters the encoder) or ``frames`` (what left it).
            texts: the transcripts.
            rates: feature frames a token, by stream.
            loss: for the LLM: ``num_items_in_batch``.
        """
        tokens: list[dict[str, Tensor]] = [{} for _ in texts]
        for stream, given in streams.items():
            frames = self._frames(stream, given)
            rows, counts = self.model.project(stream, frames, given["lengths"], rate=rates[stream])
            for sample, row, count in zip(tokens, rows, counts.tolist(), strict=True):
                sample[stream] = row[:count]
        parts = [
            self.model.parts(sample, rates=dict(rates), text=text)
            for sample, text in zip(tokens, texts, strict=True)
        ]
        return self.model(self.model.assemble(parts), use_cache=False, **loss)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What is trained, and the buffers of encoders that are; each shared weight once."""
        state = super().state_dict(*args, **kwargs)
        kept = {name for name, value in self.named_parameters() if value.requires_grad}
        for name, module in self.named_modules():
            if any(module is encoder for encoder in self._encoders()) and _is_trained(module):
                kept |= {f"{name}.{buffer}" for buffer, _ in module.named_buffers()}
        return {name: value for name, value in state.items() if name in kept}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Reads what `state_dict` gave; the rest of the model stays as it is.

        Raises:
            CheckpointError: other weights are in it than those that are trained.
        """
        wanted = set(self.state_dict())
        odd = sorted(wanted.symmetric_difference(state_dict))
        if odd:
            raise CheckpointError(
                f"The checkpoint does not hold what this run trains: {len(odd)} weights differ, "
                f"first {odd[0]}; use another folder."
            )
        super().load_state_dict(state_dict, strict=False)
        return _Loaded([], [])

    def _frames(self, stream: str, given: Mapping[str, Any]) -> Tensor:
        if "frames" in given:
            return given["frames"]
        trained = _is_trained(self.model.encoder(stream))
        with nullcontext() if trained else torch.no_grad():
            return self.model.encode(stream, given["batch"], given["lengths"])

    def _encoders(self) -> list[nn.Module]:
        found = [getattr(self.model, f"{stream}_encoder") for stream in STREAMS]
        return [encoder for encoder in found if encoder is not None]


def prepare_for_training(model: LlamaAvsr, config: TrainConfig) -> SpokenModel:
    """Adds branches where they are asked for, and lets learn what is to learn.

    The rates of the run become the model's own, the first one its default.

    Raises:
        InputError: LoRA is to be trained and there is none, or branches are there already.
    """
    if config.lora is not None:
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            attach_lora(model.llm, config.lora)
        model.config = replace(model.config, lora=config.lora)
    model.config = replace(model.config, **_rates(model, config))
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


def _rates(model: LlamaAvsr, config: TrainConfig) -> dict[str, Any]:
    """The rates that are asked for, by the model configuration's names."""
    asked = {"audio": config.audio_rates}
    given = {name: asked.get(name, config.video_rates) for name in model.config.streams}
    return {f"{name}_rates": tuple(dict.fromkeys(own)) for name, own in given.items() if own}


def _learns(name: str, config: TrainConfig) -> bool:
    if not name.startswith("llm."):
        return "projector" in name.split(".")[0] or config.encoders
    return config.llm == "full" or (config.llm == "lora" and ".lora_" in name)


def _learn_delimiters(model: LlamaAvsr) -> None:
    """Only the delimiters' rows get a gradient (of a tied output head, too)."""
    weight: Any = model.llm.get_input_embeddings().weight
    rows = torch.zeros(len(weight), 1, device=weight.device)
    rows[[model.ids[name] for name in DELIMITERS]] = 1
    weight.requires_grad_(True)
    weight.register_hook(lambda gradient: gradient * rows.to(gradient))


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
