"""A heatmap of bounded size for inputs of any length: sums over squares of the attention map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

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
        heads: ``"each"``, or ``"mean"`` for one map a layer, the mean over its heads.
    """

    bins: int = 512
    heads: Literal["each", "mean"] = field(default="each", kw_only=True)
    site: str = field(default="pattern", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.site != "pattern":
            raise SiteError(f"PatternBins reads 'pattern', not {self.site!r}.")
        if self.bins < 1:
            raise InputError(f"PatternBins: {self.bins} bins a side; give at least 1.")
        if self.heads not in ("each", "mean"):
            raise InputError(f"PatternBins: heads is {self.heads!r}; use 'each' or 'mean'.")

    def reduce(self, value: Rows) -> State:
        """Sums ``[head, query_bin, key_bin]``, visible pairs, and the width that was needed."""
        width = _width(value.length, self.bins)
        sums = self._binned(value.weights, value, width)
        if self.heads == "mean":
            sums = sums.mean(0, keepdim=True)
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
        return super().merge([_coarser(state, widest) for state in states])

    def finish(self, state: State) -> State:
        """The state, without the axis of the heads where they were averaged."""
        if self.heads == "each":
            return state
        return {**state, "pattern_bins": state["pattern_bins"][0]}

    def variables(self) -> Mapping[str, tuple[str, ...]]:
        """``pattern_bins``, ``pattern_bin_pairs`` and ``pattern_bin_width`` (tokens)."""
        heads = ("head",) if self.heads == "each" else ()
        return {
            "pattern_bins": (*heads, "query_bin", "key_bin"),
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
        side = max(-(-value.length // width), top + part.shape[1], left + part.shape[2])
        total = part.new_zeros(len(part), side, side)
        total[:, top : top + part.shape[1], left : left + part.shape[2]] = part
        return total


def _summed(block: Float[Tensor, "head query key"], width: int) -> Float[Tensor, "head row column"]:
    return reduce(
        block, "head (row high) (column wide) -> head row column", "sum", high=width, wide=width
    )


def _width(tokens: int, bins: int) -> int:
    return 1 << max(0, (-(-tokens // bins) - 1).bit_length())


def _coarser(state: State, width: int) -> State:
    factor = width // int(state["pattern_bin_width"])
    if factor == 1:
        return state

    def coarse(squares: Float[Tensor, "head row column"]) -> Float[Tensor, "head high wide"]:
        fill = -squares.shape[1] % factor
        return _summed(functional.pad(squares, (0, fill, 0, fill)), factor)

    return {
        "pattern_bins": coarse(state["pattern_bins"]),
        "pattern_bin_pairs": coarse(state["pattern_bin_pairs"][None].double())[0].long(),
        "pattern_bin_width": torch.tensor(width),
    }
