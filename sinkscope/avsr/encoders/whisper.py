"""Whisper's encoder (arXiv 2212.04356): transformers' own, behind the encoders' interface."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sinkscope.avsr.clip import SAMPLE_RATE, Clip
from sinkscope.avsr.encoders.encoder import (
    Encoder,
    normalised,
    real_frames,
    refuse_short,
    sounds_of,
)

__all__ = ["WhisperEncoder", "original_count"]

HOP = 320
"""Samples of a frame."""

FEWEST = 25
"""Frames that the authors keep at least, of however short a clip."""


class WhisperEncoder(Encoder):
    """Whisper's encoder, 50 frames a second of up to 30 s.

    Whisper always reads 30 s: silence follows a shorter clip, and its frames see that silence. Only
    the frames of the clip itself are handed on.

    Args:
        whisper: the fields of a ``transformers.WhisperConfig``.
    """

    def __init__(self, *, whisper: Mapping[str, Any]) -> None:
        from transformers import WhisperConfig, WhisperFeatureExtractor
        from transformers.models.whisper.modeling_whisper import WhisperEncoder as Model

        super().__init__()
        config = WhisperConfig(**whisper)
        self.model = Model(config)
        self.width = config.d_model
        self.frame_rate = SAMPLE_RATE / HOP
        self.longest_seconds = config.max_source_positions * HOP / SAMPLE_RATE
        self._features = WhisperFeatureExtractor(
            feature_size=config.num_mel_bins, chunk_length=int(self.longest_seconds)
        )

    def prepare(
        self, clips: Sequence[Clip], *, strict_original: bool = False
    ) -> tuple[Tensor, Int[Tensor, " sample"]]:
        """Log-mel bands ``(sample, band, 3000)``, and the frames that are kept of each clip."""
        sounds = sounds_of(clips)
        most = int(self.model.config.max_source_positions)
        counts = [min(len(sound) // HOP, most) for sound in sounds]
        lengths = torch.tensor(counts)
        if strict_original:
            lengths = torch.full_like(lengths, min(original_count(max(map(len, sounds))), most))
        refuse_short(clips, lengths, "sound")
        return self.log_mels([normalised(sound) for sound in sounds]), lengths

    def log_mels(self, sounds: Sequence[Float[Tensor, " _"]]) -> Float[Tensor, "sample band step"]:
        """Log-mel bands of normalised waveforms, filled up with silence or cut to 30 s."""
        raw = [sound.numpy() for sound in sounds]
        return self._features(raw, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features

    def forward(
        self, batch: Tensor, lengths: Int[Tensor, " sample"], *, strict_original: bool = False
    ) -> Float[Tensor, "sample frame width"]:
        """Features of log-mel bands."""
        weight = self.model.conv1.weight
        seen = self.model(batch.to(weight)).last_hidden_state[:, : int(lengths.max())]
        return seen * real_frames(lengths, seen.shape[1])[..., None].to(seen)


def original_count(samples: int) -> int:
    """Frames that Llama-AVSR's code keeps of a batch whose longest clip has so many samples.

    It divides and multiplies in float32, which loses a frame of some lengths.

    >>> original_count(640 * 53), 640 * 53 // HOP
    (105, 106)
    """
    seconds = torch.tensor(samples) / SAMPLE_RATE
    return max(int(seconds * 50), FEWEST)
