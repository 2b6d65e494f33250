"""From clips to what a bare encoder of transformers takes: the front end of its own pre-training.

The encoders of an audio-visual LLM (`sinkscope.avsr.encoders`) have their own front end and need
none of this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sinkscope.avsr.clip import SAMPLE_RATE, Clip
from sinkscope.errors import InputError
from sinkscope.subjects.encoder_given import convolved

__all__ = ["Front", "NoFront", "WaveformFront", "WhisperFront"]

WHISPER_HOP = 160
"""Samples of sound from one log-mel frame to the next."""


@runtime_checkable
class Front(Protocol):
    """What makes frames of clips: an encoder of the package, or one of the classes below.

    Attributes:
        frame_rate: frames a second.
    """

    @property
    def frame_rate(self) -> float: ...  # noqa: D102

    def prepare(self, clips: Sequence[Clip]) -> tuple[Any, Int[Tensor, " sample"]]:
        """The raw batch, and each sample's frames."""
        ...

    def __call__(self, batch: Any, lengths: Int[Tensor, " sample"]) -> Any:
        """Run the encoder."""
        ...


@dataclass(frozen=True, eq=False)
class WhisperFront:
    """Log-mel bands of the clip, filled up with silence to the encoder's window.

    Attributes:
        encoder: what reads them.
        extractor: what makes them; with the published settings where None.
    """

    encoder: Any
    extractor: Any | None = None

    @property
    def frame_rate(self) -> float:
        """Frames a second: one for two log-mel frames."""
        return SAMPLE_RATE / (2 * WHISPER_HOP)

    def prepare(self, clips: Sequence[Clip]) -> tuple[Tensor, Int[Tensor, " sample"]]:
        """Log-mel bands ``(sample, band, frame)``, and the frames of each clip."""
        from transformers import WhisperFeatureExtractor

        config = self.encoder.config
        window = 2 * WHISPER_HOP * int(config.max_source_positions)
        extract = self.extractor or WhisperFeatureExtractor(feature_size=int(config.num_mel_bins))
        bands: Any = extract(
            [_sound(clip) for clip in clips],
            sampling_rate=SAMPLE_RATE,
            max_length=window,
            truncation=True,
            padding="max_length",
            return_tensors="pt",
        )
        counts = [min(len(_sound(clip)), window) // (2 * WHISPER_HOP) for clip in clips]
        return bands["input_features"], torch.tensor(counts)

    def __call__(self, batch: Tensor, lengths: Int[Tensor, " sample"]) -> Any:
        """Run the encoder over its whole window."""
        return self.encoder(batch.to(_kind(self.encoder)))


@dataclass(frozen=True, eq=False)
class WaveformFront:
    """The clip's waveform, for WavLM, wav2vec 2.0 and HuBERT.

    It is brought to mean 0 and deviation 1 where the convolutions are layer-normalised
    (``config.feat_extract_norm``), as in the published large models. Elsewhere the first of them is
    normalised over time, so that neither changes what comes out of it.
    """

    model: Any

    @property
    def frame_rate(self) -> float:
        """Frames a second, by the strides of its convolutions."""
        return SAMPLE_RATE / float(np.prod(self.model.config.conv_stride))

    def prepare(self, clips: Sequence[Clip]) -> tuple[Tensor, Int[Tensor, " sample"]]:
        """The waveform of one clip ``(1, samples)``, and its frames."""
        if len(clips) != 1:
            raise InputError(
                f"A bare {type(self.model).__name__} reads one clip at a time, not {len(clips)}."
            )
        sound = torch.from_numpy(np.array(_sound(clips[0])))[None]
        if self.model.config.feat_extract_norm == "layer":
            sound = nn.functional.layer_norm(sound, sound.shape[1:], eps=1e-7)
        return sound, torch.tensor([convolved(self.model.config, sound.shape[1])])

    def __call__(self, batch: Tensor, lengths: Int[Tensor, " sample"]) -> Any:
        """Run the model."""
        return self.model(batch.to(_kind(self.model)))


@dataclass(frozen=True, eq=False)
class NoFront:
    """An encoder that is fed by someone else: it cannot read clips, but can be probed.

    Attributes:
        name: for the message.
        frame_rate: frames a second.
    """

    name: str
    frame_rate: float

    def prepare(self, clips: Sequence[Clip]) -> tuple[Any, Int[Tensor, " sample"]]:
        """Refuse clips."""
        raise InputError(
            f"{self.name} has no front end of its own, so it cannot read clips; hand over the "
            "whole encoder, or call it yourself inside sinkscope.probe(...)."
        )

    def __call__(self, batch: Any, lengths: Int[Tensor, " sample"]) -> Any:
        """Refuse to run."""
        return self.prepare(())


def _sound(clip: Clip) -> Float[np.ndarray, " samples"]:
    if clip.waveform is None:
        raise InputError(f"{clip.name} has no sound, which this encoder reads; give another clip.")
    return clip.waveform


def _kind(model: nn.Module) -> Tensor:
    """A weight, for its dtype and device."""
    return next(model.parameters())
