"""WavLM (arXiv 2110.13900): transformers' own, behind the encoders' interface."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sinkscope.avsr.clip import SAMPLE_RATE, Clip
from sinkscope.avsr.encoders.encoder import Encoder, normalised, refuse_short, sounds_of

__all__ = ["WavLmEncoder"]


class WavLmEncoder(Encoder):
    """WavLM, a frame every 20 ms.

    Clips are encoded one by one: padding would reach the statistics of WavLM's first layers, which
    some of its sizes take over the whole time axis.

    Args:
        wavlm: the fields of a ``transformers.WavLMConfig``.
    """

    def __init__(self, *, wavlm: Mapping[str, Any]) -> None:
        from transformers import WavLMConfig, WavLMModel

        super().__init__()
        config = WavLMConfig(**wavlm)
        self.model = WavLMModel(config)
        self.width = config.hidden_size
        self.frame_rate = SAMPLE_RATE / config.inputs_to_logits_ratio

    def prepare(
        self, clips: Sequence[Clip], *, strict_original: bool = False
    ) -> tuple[dict[str, Tensor], Int[Tensor, " sample"]]:
        """Normalised waveforms with their lengths, and the frames that the convolutions make."""
        sounds = [normalised(sound) for sound in sounds_of(clips)]
        samples = torch.tensor([len(sound) for sound in sounds])
        if strict_original:
            samples = torch.full_like(samples, int(samples.max()))
        lengths = self._frames(samples).clamp(min=0)
        refuse_short(clips, lengths, "sound")
        padded = nn.utils.rnn.pad_sequence(sounds, batch_first=True)
        return {"sounds": padded, "samples": samples}, lengths

    def forward(
        self,
        batch: dict[str, Tensor],
        lengths: Int[Tensor, " sample"],
        *,
        strict_original: bool = False,
    ) -> Float[Tensor, "sample frame width"]:
        """Features of waveforms."""
        sounds = batch["sounds"].to(next(self.model.parameters()))
        if strict_original:
            return self.model(sounds).last_hidden_state
        rows = [
            self.model(row[None, :count]).last_hidden_state[0]
            for row, count in zip(sounds, batch["samples"].tolist(), strict=True)
        ]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def _frames(self, samples: Tensor) -> Tensor:
        count: Any = self.model._get_feat_extract_output_lengths
        return count(samples)
