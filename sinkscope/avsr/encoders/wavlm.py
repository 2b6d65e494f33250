"""WavLM (arXiv 2110.13900): transformers' own, behind the encoders' interface."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sinkscope.avsr.clip import SAMPLE_RATE, Clip
from sinkscope.avsr.encoders.encoder import (
    Encoder,
    normalised,
    real_frames,
    refuse_short,
    sounds_of,
)
from sinkscope.errors import CheckpointError

__all__ = ["WavLmEncoder"]


class WavLmEncoder(Encoder):
    """WavLM, a frame every 20 ms (with the published strides, whose product is 320 samples).

    A frame sees 25 ms, so a clip makes one frame less than its length divided by 20 ms.

    The convolutions read clips one by one: some sizes of WavLM normalise their first layer over the
    whole time axis, which padding would reach. The transformer reads the batch, padding masked.

    Args:
        wavlm: the fields of a ``transformers.WavLMConfig``.

    Raises:
        CheckpointError: the configuration has an adapter, which would change the frame rate.
    """

    def __init__(self, *, wavlm: Mapping[str, Any]) -> None:
        from transformers import WavLMConfig, WavLMModel

        super().__init__()
        config = WavLMConfig(**wavlm)
        if config.add_adapter:
            raise CheckpointError(
                "WavLM: the configuration has add_adapter = True; only WavLM without the adapter, "
                "as published, is built here."
            )
        self.model = WavLMModel(config)
        self.width = config.hidden_size
        self.frame_rate = SAMPLE_RATE / config.inputs_to_logits_ratio

    def prepare(
        self, clips: Sequence[Clip], *, strict_original: bool = False
    ) -> tuple[dict[str, Tensor], Int[Tensor, " sample"]]:
        """Normalised waveforms with their lengths, and the frames that the convolutions make."""
        sounds = sounds_of(clips)
        samples = torch.tensor([len(sound) for sound in sounds])
        refuse_short(clips, self._frames(samples), "audio")
        if strict_original:
            samples = torch.full_like(samples, int(samples.max()))
        padded = pad_sequence([normalised(sound) for sound in sounds], batch_first=True)
        return {"sounds": padded, "samples": samples}, self._frames(samples)

    def forward(
        self,
        batch: dict[str, Tensor],
        lengths: Int[Tensor, " sample"],
        *,
        strict_original: bool = False,
    ) -> Float[Tensor, "sample frame width"]:
        """Features of waveforms."""
        sounds = batch["sounds"].to(self.model.feature_projection.projection.weight)
        if strict_original:
            return self.model(sounds).last_hidden_state
        heard = [
            self.model.feature_extractor(row[None, :count])[0].T
            for row, count in zip(sounds, batch["samples"].tolist(), strict=True)
        ]
        states, _ = self.model.feature_projection(pad_sequence(heard, batch_first=True))
        real = real_frames(lengths, states.shape[1])
        with warnings.catch_warnings():  # transformers hands torch masks of two dtypes
            warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask")
            states = self.model.encoder(states, attention_mask=real).last_hidden_state
        return states * real[..., None]

    def _frames(self, samples: Int[Tensor, " sample"]) -> Int[Tensor, " sample"]:
        """The frames that the convolutions make of so many samples."""
        count: Any = self.model._get_feat_extract_output_lengths
        return count(samples).clamp(min=0)
