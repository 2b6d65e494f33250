"""Exact medians of many magnitudes, fast: torch's lower median. Depends on torch and numpy.

Example:
    >>> import torch
    >>> lower_median(torch.tensor([4.0, 1.0, 3.0, 2.0])).item()
    2.0
    >>> counts = bit_counts(torch.tensor([-4.0, 1.0, 3.0, 2.0], dtype=torch.bfloat16))
    >>> counted_lower_median(counts, torch.bfloat16).item()
    2.0
"""

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

__all__ = ["bit_counts", "counted_lower_median", "lower_median"]

_SIGN = 2**15
_SAMPLED = 2**14
_MARGIN = 0.02


def lower_median(magnitudes: Float[Tensor, " value"]) -> Float[Tensor, ""]:
    """The lower median of numbers that are not negative; NaN where one is NaN.

    On the CPU a sample brackets the median, and only what lies inside is sorted; should the median
    lie outside, all numbers are.
    """
    if magnitudes.device.type != "cpu" or len(magnitudes) < 4 * _SAMPLED:
        return magnitudes.median()
    numbers = magnitudes.numpy()
    rank = (len(numbers) - 1) // 2
    sample = numbers[:: len(numbers) // _SAMPLED | 1]  # odd: else it would see few features
    ends = [int(share * len(sample)) for share in (0.5 - _MARGIN, 0.5 + _MARGIN)]
    low, high = np.partition(sample, ends)[ends]
    below = np.count_nonzero(numbers < low)
    inside = numbers[(numbers >= low) & (numbers <= high)]
    if not below <= rank < below + len(inside):
        return magnitudes.median()
    return torch.as_tensor(np.partition(inside, rank - below)[rank - below])


def bit_counts(values: Shaped[Tensor, "..."]) -> Int[Tensor, " bits"]:
    """How often each magnitude of a sixteen-bit type occurs, by its bits."""
    bits = values.contiguous().view(torch.int16).flatten().to(torch.int32) & (_SIGN - 1)
    return torch.bincount(bits, minlength=_SIGN)


def counted_lower_median(counts: Int[Tensor, " bits"], dtype: torch.dtype) -> Float[Tensor, ""]:
    """The lower median of what `bit_counts` counted, as float32; NaN where one is NaN."""
    total = counts.cumsum(0)
    rank = (total[-1] - 1) // 2
    bits = torch.searchsorted(total, rank, right=True)
    last = counts.nonzero()[-1, 0]
    values = torch.stack([bits, last]).to(torch.int16).view(dtype).float()
    return torch.where(values[1].isnan(), values[1], values[0])
