"""A heatmap of bounded size for inputs of any length: sums over squares of the attention map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sinkscope.errors import InputError, SiteError
from sinkscope.probes.reducer import Max, Reducer, Rule, State, Sum
from sinkscope.probes.values import Rows

__all__ = ["PatternBins"]


@dataclass(frozen=True)
class PatternBins(Reducer):
    """Attention maps summed over squares of ``width × width`` tokens, at most ``bins`` a side.

    The width is the smallest power of two with which the sample fits, so that a sample that grows
    only ever merges neighbouring squares. A square's mean is its sum over its number of visible
    pairs.

    Attributes:
        bins: squares a side.
    """

    bins: int = 512
    site: str = field(default="pattern", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.site != "pattern":
            raise SiteError(f"PatternBins reads 'pattern', not {self.site!r}.")
        if self.bins < 1:
            raise InputError(f"PatternBins: {self.bins} bins a side; give at least 1.")

    def reduce(self, value: Rows) -> State:
        """Sums ``[head, query_bin, key_bin]``, visible pairs, and the width that was needed."""
        width = _width(value.length, self.bins)
        sums = self._binned(value.weights, value, width)
        pairs = self._binned(value.sees()[None].to(torch.float64), value, width)
        return {
            "pattern_bins": sums,
            "pattern_bin_pairs": pairs[0].to(torch.int64),
            "pattern_bin_width": torch.tensor(width),
        }

    def rules(self) -> Mapping[str, Rule]:
        """How two states of one width combine."""
        return {
            "pattern_bins": Sum(),
            "pattern_bin_pairs": Sum(),
            "pattern_bin_width": Max(),
        }

    def merge(self, states: Sequence[State]) -> State:
        """The state of the whole, of the largest width."""
        widest = max(int(state["pattern_bin_width"]) for state in states)
        return super().merge([_coarser(state, widest, self.bins) for state in states])

    def variables(self) -> Mapping[str, tuple[str, ...]]:
        """``pattern_bins``, ``pattern_bin_pairs`` and ``pattern_bin_width`` (tokens)."""
        return {
            "pattern_bins": ("head", "query_bin", "key_bin"),
            "pattern_bin_pairs": ("query_bin", "key_bin"),
            "pattern_bin_width": (),
        }

    def _binned(
        self, block: Float[Tensor, "head query key"], value: Rows, width: int
    ) -> Float[Tensor, "head query_bin key_bin"]:
        """A block's sums, put where the block stands among all squares."""
        top, left = value.start // width, value.first_key // width
        above, before = value.start % width, value.first_key % width
        below, after = -(above + block.shape[1]) % width, -(before + block.shape[2]) % width
        even = functional.pad(block, (before, after, above, below))
        part = _summed(even, width)
        total = part.new_zeros(len(part), self.bins, self.bins)
        total[:, top : top + part.shape[1], left : left + part.shape[2]] = part
        return total


def _summed(block: Float[Tensor, "head query key"], width: int) -> Float[Tensor, "head row column"]:
    return reduce(
        block, "head (row high) (column wide) -> head row column", "sum", high=width, wide=width
    )


def _width(tokens: int, bins: int) -> int:
    return 1 << max(0, (-(-tokens // bins) - 1).bit_length())


def _coarser(state: State, width: int, bins: int) -> State:
    factor = width // int(state["pattern_bin_width"])
    if factor == 1:
        return state
    fill = -bins % factor

    def coarse(squares: Float[Tensor, "head row column"]) -> Float[Tensor, "head row column"]:
        small = _summed(functional.pad(squares, (0, fill, 0, fill)), factor)
        grown = squares.new_zeros(squares.shape)
        grown[:, : small.shape[1], : small.shape[2]] = small
        return grown

    return {
        "pattern_bins": coarse(state["pattern_bins"]),
        "pattern_bin_pairs": coarse(state["pattern_bin_pairs"][None].double())[0].long(),
        "pattern_bin_width": torch.tensor(width),
    }
