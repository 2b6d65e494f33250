"""AV-HuBERT behind the encoders' interface: by ear, by eye, or by both. 25 frames a second."""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from sinkscope.avsr.avhubert import AvHubert, AvHubertConfig
from sinkscope.avsr.clip import FRAME_RATE, SAMPLE_RATE, Clip
from sinkscope.avsr.encoders.encoder import (
    Encoder,
    pictures_of,
    real_frames,
    refuse_short,
    sounds_of,
)
from sinkscope.avsr.encoders.filterbank import WINDOW, audio_features
from sinkscope.errors import InputError

__all__ = ["AvHubertEncoder"]

MEAN, DEVIATION = 0.421, 0.165
"""Of grey mouth crops from 0 to 1, as published."""

SIDE, CROPPED = 96, 88


class AvHubertEncoder(Encoder):
    """One AV-HuBERT that reads sound, picture or both.

    Where it reads both, sound is cut or filled up with silence to the length of the picture, 640
    samples a frame, as in Llama-AVSR (arXiv 2409.12319).

    Args:
        streams: what it reads, ``"audio"``, ``"video"`` or both.
        config: the fields of an `AvHubertConfig`.
    """

    frame_rate = float(FRAME_RATE)

    def __init__(self, streams: Sequence[str], **config: Any) -> None:
        super().__init__()
        self.streams = tuple(streams)
        self.model = AvHubert(AvHubertConfig.from_dict(config))
        self.width = self.model.config.width

    def prepare(
        self,
        clips: Sequence[Clip],
        *,
        strict_original: bool = False,
        streams: Sequence[str] | None = None,
    ) -> tuple[dict[str, Tensor], Int[Tensor, " sample"]]:
        """What each stream needs, and each sample's frames.

        Args:
            clips: what is encoded.
            strict_original: see `Encoder`.
            streams: those of its streams that are read; None for all. A stream that is not read is
                absent for every clip of the batch.

        Raises:
            InputError: a clip lacks a stream or is too short, or the encoder lacks the stream.
        """
        streams = self._chosen(streams)
        rows: dict[str, list[Tensor]] = {}
        if "audio" in streams:
            rows["audio"] = [audio_features(sound.numpy()) for sound in self._sounds(clips)]
        if "video" in streams:
            pictures = pictures_of(clips)
            _refuse_short(clips, pictures, "video", least=1)
            rows["video"] = [mouth_crops(picture) for picture in pictures]
        batch = {name: pad_sequence(found, batch_first=True) for name, found in rows.items()}
        lengths = torch.tensor([len(row) for row in next(iter(rows.values()))])
        return batch, lengths.fill_(int(lengths.max())) if strict_original else lengths

    def forward(
        self,
        batch: dict[str, Tensor],
        lengths: Int[Tensor, " sample"],
        *,
        strict_original: bool = False,
    ) -> Float[Tensor, "sample frame width"]:
        """Features of prepared streams."""
        weight = self.model.post_extract_proj.weight
        if strict_original:
            return self.model(**{name: value.to(weight) for name, value in batch.items()})
        mask = real_frames(lengths, next(iter(batch.values())).shape[1])
        given = {name: _cleared(value.to(weight), mask) for name, value in batch.items()}
        return self.model(**given, mask=mask) * mask[..., None]

    def _chosen(self, streams: Sequence[str] | None) -> Sequence[str]:
        if streams is None:
            return self.streams
        if not streams or not set(streams) <= set(self.streams):
            raise InputError(
                f"streams is {tuple(streams)}; this AV-HuBERT reads {' and '.join(self.streams)}."
            )
        return streams

    def _sounds(self, clips: Sequence[Clip]) -> list[Float[Tensor, " _"]]:
        """Waveforms, brought to the length of the picture where the encoder reads both."""
        sounds = sounds_of(clips)
        _refuse_short(clips, sounds, "audio", least=WINDOW)
        if self.streams == ("audio",):
            return sounds
        return [_fitted(sound, clip) for sound, clip in zip(sounds, clips, strict=True)]


def mouth_crops(frames: UInt8[Tensor, "frame height width"]) -> Float[Tensor, "frame 88 88"]:
    """The middle 88 x 88 pixels of 96 x 96 mouth crops, scaled as AV-HuBERT was trained.

    Crops of another size are brought to 96 x 96 first: their largest square in the middle, resized
    with smoothing.
    """
    grey = frames.float() / 255
    if grey.shape[-2:] != (SIDE, SIDE):
        square = _middle(grey, min(grey.shape[-2:]))
        mode: dict[str, Any] = {"mode": "bilinear", "align_corners": False, "antialias": True}
        grey = functional.interpolate(square[:, None], (SIDE, SIDE), **mode)[:, 0]
    return (_middle(grey, CROPPED) - MEAN) / DEVIATION


def _middle(frames: Tensor, side: int) -> Tensor:
    """The square of so many pixels in the middle of frames."""
    top, left = ((size - side) // 2 for size in frames.shape[-2:])
    return frames[:, top : top + side, left : left + side]


def _cleared(
    value: Float[Tensor, "sample frame *rest"], mask: Bool[Tensor, "sample frame"]
) -> Float[Tensor, "sample frame *rest"]:
    """The same with zeros in the padding."""
    beyond = rearrange(~mask, "s f -> s f" + " 1" * (value.ndim - 2))
    return value.masked_fill(beyond, 0)


def _fitted(sound: Float[Tensor, " samples"], clip: Clip) -> Float[Tensor, " _"]:
    """Sound cut, or filled up with silence, to the length of the clip's picture if it has one."""
    if clip.frames is None or not len(clip.frames):
        return sound
    samples = len(clip.frames) * SAMPLE_RATE // FRAME_RATE
    return functional.pad(sound, (0, samples - len(sound)))


def _refuse_short(
    clips: Sequence[Clip], values: Sequence[Tensor], stream: str, *, least: int
) -> None:
    refuse_short(clips, torch.tensor([len(value) // least for value in values]), stream)
