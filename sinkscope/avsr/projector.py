"""From encoder frames to LLM tokens: compress the frames at a rate, then project them.

As in Llama-AVSR (arXiv 2409.12319, section 2): frames that do not fill a token are dropped.
"""

from einops import rearrange, reduce
from jaxtyping import Float, Int64
from torch import Tensor, nn

__all__ = ["Projector", "compress_average", "compress_stack", "compressed_lengths"]


def compress_average(
    frames: Float[Tensor, "sample frame width"], *, rate: int
) -> Float[Tensor, "sample token width"]:
    """Mean over every ``rate`` frames; a remainder is dropped (floor).

    >>> import torch
    >>> compress_average(torch.arange(5.0).reshape(1, 5, 1), rate=2).flatten().tolist()
    [0.5, 2.5]
    """
    whole = frames[:, : frames.shape[1] // rate * rate]
    return reduce(whole, "sample (token rate) width -> sample token width", "mean", rate=rate)


def compress_stack(
    frames: Float[Tensor, "sample frame width"], *, rate: int
) -> Float[Tensor, "sample token stacked"]:
    """``rate`` frames side by side, the earliest first; a remainder is dropped (floor).

    >>> import torch
    >>> compress_stack(torch.arange(5.0).reshape(1, 5, 1), rate=2).tolist()
    [[[0.0, 1.0], [2.0, 3.0]]]
    """
    whole = frames[:, : frames.shape[1] // rate * rate]
    return rearrange(whole, "sample (token rate) width -> sample token (rate width)", rate=rate)


def compressed_lengths(lengths: Int64[Tensor, " sample"], *, rate: int) -> Int64[Tensor, " sample"]:
    """Tokens that a number of frames gives.

    >>> import torch
    >>> compressed_lengths(torch.tensor([3, 4, 9]), rate=4).tolist()
    [0, 1, 2]
    """
    return lengths.div(rate, rounding_mode="floor")


class Projector(nn.Sequential):
    """Linear, ReLU, Linear and, where asked for, LayerNorm (indices 0, 2 and 3, as published).

    Args:
        inputs: features of a compressed frame.
        hidden: units of the hidden layer.
        outputs: features of the LLM's residual stream.
        norm: whether to end in a LayerNorm.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, *, norm: bool = False) -> None:
        layers = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs)]
        super().__init__(*layers, *([nn.LayerNorm(outputs)] if norm else []))
