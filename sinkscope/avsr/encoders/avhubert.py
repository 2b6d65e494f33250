"""AV-HuBERT behind the encoders' interface: by ear, by eye, or by both. 25 frames a second."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sinkscope.avsr.avhubert import AvHubert, AvHubertConfig
from sinkscope.avsr.clip import FRAME_RATE, Clip
from sinkscope.avsr.encoders.encoder import (
    Encoder,
    pictures_of,
    real_frames,
    refuse_short,
    sounds_of,
)
from sinkscope.avsr.encoders.filterbank import audio_features

__all__ = ["AvHubertEncoder"]

MEAN, DEVIATION = 0.421, 0.165
"""Of grey mouth crops from 0 to 1, as published."""

SIDE, CROPPED = 96, 88


class AvHubertEncoder(Encoder):
    """One AV-HuBERT that reads sound, picture or both.

    With both, frames are those that sound and picture share.

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
        self, clips: Sequence[Clip], *, strict_original: bool = False
    ) -> tuple[dict[str, Tensor], Int[Tensor, " sample"]]:
        """What each stream needs, and each sample's frames."""
        rows: dict[str, list[Tensor]] = {}
        if "audio" in self.streams:
            rows["audio"] = [audio_features(np.asarray(sound)) for sound in sounds_of(clips)]
        if "video" in self.streams:
            rows["video"] = [mouth_crops(picture) for picture in pictures_of(clips)]
        lengths = torch.tensor([min(map(len, found)) for found in zip(*rows.values(), strict=True)])
        refuse_short(clips, lengths, " and ".join(self.streams))
        if strict_original:
            lengths = torch.full_like(lengths, int(lengths.max()))
        longest = int(lengths.max())
        batch = {
            name: nn.utils.rnn.pad_sequence(found, batch_first=True)[:, :longest]
            for name, found in rows.items()
        }
        return batch, lengths

    def forward(
        self,
        batch: dict[str, Tensor],
        lengths: Int[Tensor, " sample"],
        *,
        strict_original: bool = False,
    ) -> Float[Tensor, "sample frame width"]:
        """Features of prepared streams."""
        weight = self.model.post_extract_proj.weight
        given = {name: value.to(weight) for name, value in batch.items()}
        frames = next(iter(given.values())).shape[1]
        if strict_original:
            return self.model(**given)
        mask = real_frames(lengths, frames)
        return self.model(**given, mask=mask) * mask[..., None].to(weight)


def mouth_crops(frames: Tensor) -> Float[Tensor, "frame 88 88"]:
    """The middle 88 x 88 pixels of 96 x 96 mouth crops, scaled as AV-HuBERT was trained.

    Crops of another size are brought to 96 x 96 first.
    """
    grey = frames.float() / 255
    if grey.shape[-2:] != (SIDE, SIDE):
        mode: dict[str, Any] = {"mode": "bilinear", "align_corners": False, "antialias": True}
        grey = functional.interpolate(grey[:, None], (SIDE, SIDE), **mode)[:, 0]
    edge = (SIDE - CROPPED) // 2
    return (grey[:, edge : edge + CROPPED, edge : edge + CROPPED] - MEAN) / DEVIATION
