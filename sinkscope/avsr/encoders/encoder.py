"""What every encoder is: from clips to features, so many a second. Depends on torch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sinkscope.avsr.clip import FRAME_RATE, SAMPLE_RATE, Clip
from sinkscope.errors import InputError

__all__ = [
    "Batch",
    "Encoder",
    "normalised",
    "pictures_of",
    "real_frames",
    "refuse_short",
    "sounds_of",
]

Batch = Tensor | dict[str, Tensor]
"""What enters an encoder: one tensor, or one for each stream."""


class Encoder(nn.Module, ABC):
    """From clips to features.

    Attributes:
        frame_rate: feature frames a second.
        width: features of a frame.
        streams: what it reads of a clip: ``"audio"``, ``"video"``, or both.
        longest_seconds: what is longer is cut to this; None where nothing is cut.
    """

    frame_rate: float
    width: int
    streams: tuple[str, ...] = ("audio",)
    longest_seconds: float | None = None

    @abstractmethod
    def prepare(
        self, clips: Sequence[Clip], *, strict_original: bool = False
    ) -> tuple[Batch, Int[Tensor, " sample"]]:
        """The raw batch, padded with zeros at its end, and each sample's feature frames.

        Args:
            clips: what is encoded.
            strict_original: count as Llama-AVSR's own code does: one number for the whole batch,
                that of the longest clip.

        Raises:
            InputError: if a clip lacks a stream, or is too short for one frame.
        """

    @abstractmethod
    def forward(
        self, batch: Any, lengths: Int[Tensor, " sample"], *, strict_original: bool = False
    ) -> Float[Tensor, "sample frame width"]:
        """Features; frames beyond a sample's length are 0 and touched no other frame.

        With ``strict_original`` nothing is masked: padding is encoded like content.
        """

    @property
    def truncation(self) -> str:
        """What happens to long clips, as a sentence."""
        if self.longest_seconds is None:
            return "No clip is too long."
        return f"What lies beyond {self.longest_seconds:g} s of a clip is not encoded."

    def truncated(self, clips: Sequence[Clip]) -> list[str]:
        """A sentence for each clip of which this encoder does not read the end."""
        limit = self.longest_seconds
        lasting = [
            (clip.name, max(_seconds(clip, name) for name in self.streams)) for clip in clips
        ]
        return [
            f"{name} lasts {seconds:.1f} s; what lies beyond {limit:g} s is not encoded."
            for name, seconds in lasting
            if limit is not None and seconds > limit
        ]

    def silent(self, clips: Sequence[Clip]) -> list[str]:
        """A sentence for each clip in which nothing is to be heard or seen.

        Such clips are encoded like any other: that is how a stream is taken away in experiments.
        """
        return [
            f"{clip.name}: its {_STREAMS[name]} is constant, so that it tells nothing."
            for clip in clips
            for name in self.streams
            if _constant(clip, name)
        ]


def sounds_of(clips: Sequence[Clip]) -> list[Float[Tensor, " samples"]]:
    """The waveforms of clips.

    Raises:
        InputError: a clip has none, or one with samples that are no finite numbers.
    """
    for clip in clips:
        if clip.waveform is None:
            raise InputError(f"{clip.name} has no sound; choose modality='video' for it.")
        if not np.isfinite(clip.waveform).all():
            raise InputError(
                f"{clip.name}: its sound has samples that are infinite or not a number; read the "
                "clip anew or repair it."
            )
    return [torch.from_numpy(np.array(clip.waveform, np.float32)) for clip in clips]


def pictures_of(clips: Sequence[Clip]) -> list[Tensor]:
    """The mouth crops of clips, ``(frame, height, width)`` of bytes.

    Raises:
        InputError: a clip has none.
    """
    for clip in clips:
        if clip.frames is None:
            raise InputError(f"{clip.name} has no picture; choose modality='audio' for it.")
    return [torch.from_numpy(np.array(clip.frames)) for clip in clips]


def normalised(waveform: Float[Tensor, " samples"]) -> Float[Tensor, " samples"]:
    """The whole waveform to mean 0 and deviation 1, as in Llama-AVSR (arXiv 2409.12319).

    >>> normalised(torch.tensor([0.0, 2.0])).tolist()
    [-1.0, 1.0]
    """
    return nn.functional.layer_norm(waveform, waveform.shape, eps=1e-8)


def real_frames(lengths: Int[Tensor, " sample"], frames: int) -> Bool[Tensor, "sample frame"]:
    """True where a frame is real.

    >>> real_frames(torch.tensor([1, 2]), 2).tolist()
    [[True, False], [True, True]]
    """
    return torch.arange(frames, device=lengths.device)[None] < lengths[:, None]


def refuse_short(clips: Sequence[Clip], lengths: Int[Tensor, " sample"], stream: str) -> None:
    """Refuse clips that do not make one frame.

    Args:
        clips: the clips.
        lengths: the frames that each makes.
        stream: ``"audio"`` or ``"video"``.

    Raises:
        InputError: naming the first such clip.
    """
    for clip, length in zip(clips, lengths.tolist(), strict=True):
        if length < 1:
            raise InputError(
                f"{clip.name}: its {_STREAMS[stream]} is too short for one frame "
                f"({_seconds(clip, stream):.3f} s); give a longer clip."
            )


def _seconds(clip: Clip, stream: str) -> float:
    """How long one stream of a clip lasts; 0 where it has none."""
    if stream == "audio":
        return 0.0 if clip.waveform is None else len(clip.waveform) / SAMPLE_RATE
    return 0.0 if clip.frames is None else len(clip.frames) / FRAME_RATE


def _constant(clip: Clip, stream: str) -> bool:
    """Whether every sample, or every pixel, is the same; False where there is none."""
    values = clip.waveform if stream == "audio" else clip.frames
    return values is not None and values.size > 0 and bool((values == values.flat[0]).all())


_STREAMS = {"audio": "sound", "video": "picture"}
"""What a stream is called in a message."""
