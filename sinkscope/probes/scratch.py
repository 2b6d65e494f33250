"""Memory that is used again and again: fresh pages cost more than the arithmetic on them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Scratch"]


class Scratch:
    """Memory that the blocks of many maps use in turn; what is there holds for one block only."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def take(self, use: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Memory of a shape, of the dtype and device of ``like``; each use has its own."""
        place, size = (use, like.dtype, like.device), math.prod(shape)
        if place not in self._buffers or len(self._buffers[place]) < size:
            self._buffers[place] = like.new_empty(size)
        return self._buffers[place][:size].view(*shape)
