"""An audio-visual LLM as the Trainer runs it: batches of encoder inputs in, a loss out.

Depends on torch and avsr.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sinkscope.avsr.model import LlamaAvsr
from sinkscope.errors import CheckpointError

__all__ = ["SpokenModel"]

STREAMS = ("audio", "video", "audiovisual")


class _Loaded(NamedTuple):
    """What torch says of a state that it read."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class SpokenModel(nn.Module):
    """Wraps an audio-visual LLM; its state is what is trained, and nothing else.

    Encoders that are not trained stay in evaluation mode and make no graph.

    Args:
        model: after `sinkscope.training.prepared.prepare_for_training`.
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


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
