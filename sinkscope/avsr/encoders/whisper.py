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
from sinkscope.errors import CheckpointError

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
        original_dtype: in which ``strict_original`` counts frames (see `original_count`):
            ``"float32"``, or ``"bfloat16"`` as where the authors' trainer runs in pure bfloat16.

    Raises:
        CheckpointError: the bands or the dtype cannot be.
    """

    def __init__(self, *, whisper: Mapping[str, Any], original_dtype: str = "float32") -> None:
        from transformers import WhisperConfig, WhisperFeatureExtractor
        from transformers.models.whisper.modeling_whisper import WhisperEncoder as Model

        super().__init__()
        if original_dtype not in _DTYPES:
            raise CheckpointError(
                f"Whisper: original_dtype is {original_dtype!r}; use one of {', '.join(_DTYPES)}."
            )
        config = WhisperConfig(**whisper)
        self.original_dtype = _DTYPES[original_dtype]
        self.model = Model(config)
        self.width = config.d_model
        self.frame_rate = SAMPLE_RATE / HOP
        self.longest_seconds = config.max_source_positions * HOP / SAMPLE_RATE
        self._features = WhisperFeatureExtractor(feature_size=config.num_mel_bins)

    def prepare(
        self, clips: Sequence[Clip], *, strict_original: bool = False
    ) -> tuple[Tensor, Int[Tensor, " sample"]]:
        """Log-mel bands ``(sample, band, 3000)``, and the frames that are kept of each clip."""
        sounds = sounds_of(clips)
        most = int(self.model.config.max_source_positions)
        lengths = torch.tensor([len(sound) // HOP for sound in sounds]).clamp(max=most)
        refuse_short(clips, lengths, "audio")
        if strict_original:
            longest = max(len(sound) for sound in sounds)
            lengths = lengths.fill_(min(original_count(longest, dtype=self.original_dtype), most))
        return self.log_mels([normalised(sound) for sound in sounds]), lengths

    def log_mels(self, sounds: Sequence[Float[Tensor, " _"]]) -> Float[Tensor, "sample band step"]:
        """Log-mel bands of normalised waveforms, filled up with silence or cut to 30 s."""
        bands: Any = self._features(
            [sound.numpy() for sound in sounds],
            sampling_rate=SAMPLE_RATE,
            max_length=HOP * int(self.model.config.max_source_positions),
            return_tensors="pt",
        )
        return bands["input_features"]

    def forward(
        self, batch: Tensor, lengths: Int[Tensor, " sample"], *, strict_original: bool = False
    ) -> Float[Tensor, "sample frame width"]:
        """Features of log-mel bands."""
        weight = self.model.conv1.weight
        seen = self.model(batch.to(weight)).last_hidden_state[:, : int(lengths.max())]
        return seen * real_frames(lengths, seen.shape[1])[..., None].to(seen)


def original_count(samples: int, *, dtype: torch.dtype = torch.float32) -> int:
    """Frames that Llama-AVSR's code keeps of a batch whose longest clip has so many samples.

    It divides and multiplies in floating point: in float32 that loses a frame of some lengths, and
    in bfloat16 it is off by up to 18 frames in the first 16 s.

    Args:
        samples: at 16 kHz.
        dtype: in which it counts.

    >>> original_count(640 * 53), 640 * 53 // HOP
    (105, 106)
    """
    seconds = torch.tensor(samples).to(dtype) / SAMPLE_RATE
    return max(int(seconds * 50), FEWEST)


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
