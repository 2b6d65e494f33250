"""What turns clips into the LLM's tokens: encoders, compression, projectors."""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.config import AvsrConfig, EncoderConfig
from sinkscope.avsr.encoders import Encoder, build_encoder
from sinkscope.avsr.projector import (
    Projector,
    compress_average,
    compress_stack,
    compressed_lengths,
)
from sinkscope.avsr.streams import refuse_remainder, refuse_short
from sinkscope.errors import InputError

__all__ = ["FrontEnd"]


class FrontEnd(nn.Module):
    """Encoders and projectors of an audio-visual LLM.

    Args:
        config: what to build.
    """

    def __init__(self, config: AvsrConfig) -> None:
        super().__init__()
        self.config = config

    def build_front(self) -> None:
        """Builds encoders and projectors, their weights drawn at random."""
        config = self.config
        self.audio_encoder = _build(config.audio_encoder)
        self.video_encoder = _build(config.video_encoder)
        self.audiovisual_encoder = _build(config.audiovisual_encoder)
        self.audio_projector = self._projectors("audio")
        self.video_projector = self._projectors("video")
        self.audiovisual_projector = self._projectors("audiovisual")

    def encoder(self, stream: str) -> Encoder:
        """The encoder that makes a stream's features; one encoder may make two streams'.

        Raises:
            InputError: the model does not make tokens of that stream.
        """
        if stream not in self.config.streams:
            raise InputError(f"This model has no {stream} encoder; use another modality.")
        return self.audiovisual_encoder or getattr(self, f"{stream}_encoder")

    def encode(
        self, stream: str, batch: Any, lengths: Tensor, *, strict_original: bool = False
    ) -> Tensor:
        """Encoder frames (sample, frame, width) of what the encoder's ``prepare`` gave."""
        device = next(self.parameters()).device
        there = (
            {name: value.to(device) for name, value in batch.items()}
            if isinstance(batch, dict)
            else batch.to(device)
        )
        encoder = self.encoder(stream)
        return encoder(there, lengths.to(device), strict_original=strict_original)

    def projector(self, stream: str, *, rate: int) -> Projector:
        """The projector of a stream: that of a rate, or the one that all rates share.

        Raises:
            InputError: the model does not make tokens of that stream, or has no projector for the
                rate.
        """
        found = getattr(self, f"{stream}_projector")
        if found is None:
            raise InputError(f"This model has no {stream} projector; use another modality.")
        if not isinstance(found, nn.ModuleDict):
            return found
        if str(rate) not in found:
            raise InputError(
                f"This model has no {stream} projector for rate {rate}; use one of "
                f"{', '.join(found)}."
            )
        return cast("Projector", found[str(rate)])

    def project(
        self, stream: str, frames: Tensor, lengths: Tensor, *, rate: int
    ) -> tuple[Tensor, Tensor]:
        """Encoder frames to LLM tokens: compressed at a rate and projected.

        Args:
            stream: ``"audio"``, ``"video"`` or ``"audiovisual"``.
            frames: encoder outputs (sample, frame, width), padded at the end.
            lengths: real frames of each sample.
            rate: frames a token.

        Returns:
            Tokens (sample, token, feature), and how many of them are real in each sample.

        Raises:
            InputError: see `projector`.
        """
        compress = compress_stack if self.config.compression == "stack" else compress_average
        projector = self.projector(stream, rate=rate)
        return projector(compress(frames, rate=rate)), compressed_lengths(lengths, rate=rate)

    def tokens_of(
        self, stream: str, clips: Sequence[Clip], rate: int, *, strict_original: bool = False
    ) -> list[Tensor]:
        """The LLM's tokens (token, feature) of one stream of each clip.

        Args:
            stream: ``"audio"``, ``"video"`` or ``"audiovisual"``.
            clips: that have it.
            rate: encoder frames a token.
            strict_original: see `sinkscope.avsr.model.LlamaAvsr.prepare`.

        Raises:
            InputError: a clip is too short for one token.
        """
        encoder = self.encoder(stream)
        one_of_two = self.config.audiovisual_encoder is not None and stream != "audiovisual"
        alone = {"streams": (stream,)} if one_of_two else {}
        batch, lengths = encoder.prepare(clips, strict_original=strict_original, **alone)
        refuse_short(stream, clips, lengths.tolist(), rate=rate, frame_rate=encoder.frame_rate)
        frames = self.encode(stream, batch, lengths, strict_original=strict_original)
        if strict_original:
            refuse_remainder(stream, frames.shape[1], rate=rate, config=self.config)
        tokens, counts = self.project(stream, frames, lengths, rate=rate)
        return [value[:count] for value, count in zip(tokens, counts.tolist(), strict=True)]

    def _projectors(self, stream: str) -> Projector | nn.ModuleDict | None:
        """None without the stream; one for each rate, by its number; or one for all."""
        config = self.config
        if stream not in config.streams:
            return None
        if config.projectors == "per_rate":
            return nn.ModuleDict({str(n): self._projector(stream, n) for n in config.rates(stream)})
        return self._projector(stream, config.rates(stream)[0])

    def _projector(self, stream: str, rate: int) -> Projector:
        config = self.config
        width = self.encoder(stream).width * (rate if config.compression == "stack" else 1)
        norm = config.ends_in_norm(stream)
        return Projector(width, config.projector_width, config.hidden_size, norm=norm)


def _build(config: EncoderConfig | None) -> Encoder | None:
    return build_encoder(config.kind, config.config) if config else None
