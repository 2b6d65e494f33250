"""From the frames of a clip to what an image encoder takes: each frame is one sample.

Without a processor the mean and deviation are those of the family's published models; a processor's
own are used where one is given. Cutting, as some processors do, is left out on purpose: every
patch is a part of the frame, and rows and columns cover the whole of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import repeat
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from sinkscope.avsr.clip import FRAME_RATE, Clip
from sinkscope.errors import InputError
from sinkscope.subjects.anatomy import Anatomy
from sinkscope.subjects.encoder_layouts import patches
from sinkscope.subjects.subject import ModelInputs

__all__ = ["ImageFront"]

TOGETHER = 16
"""Frames that run in one forward."""

_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_PUBLISHED = {"clip_vision": _CLIP, "siglip_vision": _HALF, "vit": _HALF}
"""Mean and deviation of red, green and blue, of brightness from 0 to 1."""


@dataclass(frozen=True, eq=False)
class ImageFront:
    """What makes pictures of a clip's frames.

    Attributes:
        model: the encoder.
        anatomy: of it.
        processor: its processor, for its mean and deviation; None for those of the family.
    """

    model: Any
    anatomy: Anatomy
    processor: Any | None = None

    @property
    def frame_rate(self) -> float:
        """Frames a second of a clip."""
        return float(FRAME_RATE)

    def inputs(self, clip: Clip, summary: Any) -> Iterator[ModelInputs]:
        """Forwards of up to 16 frames, one sample each.

        Raises:
            InputError: if the clip has no frames.
        """
        if clip.frames is None or not len(clip.frames):
            raise InputError(f"{clip.name} has no frames, which this encoder reads.")
        weight = next(self.model.parameters())
        for first in range(0, len(clip.frames), TOGETHER):
            pictures = self.pictures(clip.frames[first : first + TOGETHER]).to(weight)
            layouts = tuple(
                self._layout(pictures, frame) for frame in range(first, first + len(pictures))
            )
            yield ModelInputs(
                {"pixel_values": pictures}, layouts, (summary,) * len(layouts), prepend_bos=False
            )

    def pictures(
        self, frames: UInt8[np.ndarray, "frame height width"]
    ) -> Float[Tensor, "frame 3 rows columns"]:
        """The frames, grey in all colours, scaled to the model's image size and normalised.

        Scaling is bilinear with antialiasing, each side by itself.
        """
        high, wide = self._sides("image_size")
        grey = torch.from_numpy(np.array(frames, np.float32))[:, None] / 255
        scaled = functional.interpolate(grey, size=(high, wide), mode="bilinear", antialias=True)
        mean, deviation = (
            torch.tensor(values)[None, :, None, None] for values in self._statistics()
        )
        return (repeat(scaled, "f 1 h w -> f c h w", c=3) - mean) / deviation

    def _statistics(self) -> tuple[Any, Any]:
        image = getattr(self.processor, "image_processor", self.processor)
        mean, deviation = (getattr(image, name, None) for name in ("image_mean", "image_std"))
        if image is None:
            return _PUBLISHED[self.anatomy.family]
        if mean is None or deviation is None:
            raise InputError(
                f"{type(self.processor).__name__} has no image_mean and image_std; give the "
                "encoder's own image processor, or none."
            )
        return mean, deviation

    def _layout(self, pictures: Tensor, frame: int) -> Any:
        high, wide = self._sides("patch_size")
        seconds = np.array([frame, frame + 1]) / FRAME_RATE
        has_class = getattr(self.anatomy.row, "layout", "") == "class_and_patches"
        rows, columns = pictures.shape[2] // high, pictures.shape[3] // wide
        return patches(rows, columns, has_class=has_class, seconds=seconds)

    def _sides(self, field: str) -> tuple[int, int]:
        side = getattr(self.anatomy.config, field)
        return tuple(side) if isinstance(side, list | tuple) else (side, side)
