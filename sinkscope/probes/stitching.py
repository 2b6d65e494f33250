"""Which sample and token every row of a forward is, across the steps of a KV cache.

A `Sequence` is one sample from its prefill through its decode steps; a `Part` is its share of one
forward. Padding is left out here, once: nothing behind this file knows of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sinkscope.errors import InputError
from sinkscope.glossary import PADDING
from sinkscope.layout import TokenLayout
from sinkscope.probes.reducer import State
from sinkscope.record import ClipSummary

__all__ = [
    "Ends",
    "Index",
    "Key",
    "Part",
    "Stream",
    "at",
    "decode_tokens",
    "frames_attended",
    "open_streams",
    "side_by_side",
]

Index = slice | Int[Tensor, " place"]
"""Places on an axis: a slice where they lie side by side, so that taking them copies nothing."""

Key = tuple[int, int]
"""Number of a reducer, and layer."""


@dataclass(frozen=True)
class Part:
    """One sample's share of a forward.

    Attributes:
        sample: its row in the batch.
        rows: its tokens among the forward's positions.
        count: how many they are.
        start: position in the sample of the first of them.
        segments: place on the ``segment`` axis of each of them.
        places: where every token of the sample so far stands in the padded sequence.
    """

    sample: int
    rows: Index
    count: int
    start: int
    segments: Int[np.ndarray, " query"]
    places: Int[np.ndarray, " token"]

    def columns(self, first: int, count: int) -> tuple[Index, int]:
        """The sample's tokens among ``count`` key columns, and the position of the first of them.

        Args:
            first: place in the padded sequence of the first column.
            count: number of columns.
        """
        inside = np.flatnonzero((self.places >= first) & (self.places < first + count))
        return side_by_side(self.places[inside] - first), int(inside[0]) if len(inside) else 0


@dataclass(eq=False)
class Stream:
    """One sample, from its prefill on.

    Attributes:
        layout: of its tokens so far, padding left out.
        clip: what is known of its clip.
        places: where its tokens stand in the padded sequence.
        padded: length of the padded sequence.
        ended: whether its end was generated.
        recorded: whether a forward of it came to its end.
        states: what the reducers know of it while it may grow.
        results: the record's variables of it, once it cannot.
        references: the state of its reference token, by site and layer.
    """

    layout: TokenLayout
    clip: ClipSummary | None
    places: Int[np.ndarray, " token"]
    padded: int
    ended: bool = False
    recorded: bool = False
    states: dict[Key, State] = field(default_factory=dict)
    results: dict[Key, State] = field(default_factory=dict)
    references: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def part(self, sample: int, positions: int) -> Part:
        """Its share of a forward that has just brought ``positions`` positions to everyone."""
        start = int(np.searchsorted(self.places, self.padded - positions))
        rows = self.places[start:] - (self.padded - positions)
        segments = self.layout.segment_index[start:]
        return Part(sample, side_by_side(rows), len(rows), start, segments, self.places)

    def restore(self, layout: TokenLayout, places: np.ndarray, padded: int, ended: bool) -> None:
        """Go back to what it was before a step that failed."""
        self.layout, self.places, self.padded, self.ended = layout, places, padded, ended

    def grow(self, labels: Sequence[str], real: Bool[np.ndarray, " position"]) -> None:
        """Take the positions of one decode step in; ``labels`` are those of the real ones."""
        more = self.padded + np.flatnonzero(real)
        self.layout = self.layout.extend("response", labels)
        self.places = np.concatenate([self.places, more])
        self.padded += len(real)


@dataclass(frozen=True)
class Ends:
    """What ends a generated sample, and what fills it up afterwards.

    Attributes:
        end: ids that end a sample.
        pad: the id that fills it up; where a model has none, generation uses an end.
    """

    end: frozenset[int] = frozenset()
    pad: int | None = None

    def real(
        self, ids: Sequence[int], *, ended: bool
    ) -> tuple[Bool[np.ndarray, " position"], bool]:
        """Which generated ids are tokens, and whether the sample has ended with them.

        A model may write the id itself before its end, and goes on attending to it.

        Example:
            >>> Ends(frozenset({2}), pad=0).real([5, 0, 2, 0], ended=False)[0].tolist()
            [True, True, True, False]
        """
        real = np.ones(len(ids), bool)
        for i, token in enumerate(ids):
            filler = token == self.pad if self.pad is not None else token in self.end
            real[i] = not (filler and ended)
            ended = (ended and not real[i]) or (real[i] and token in self.end)
        return real, bool(ended)


def open_streams(
    layouts: Sequence[TokenLayout],
    clips: Sequence[ClipSummary | None],
    attended: Bool[np.ndarray, "sample position"],
    *,
    causal: bool = True,
) -> list[Stream]:
    """The streams of a prefill.

    Args:
        layouts: one a sample, covering every position, padding labelled as such.
        clips: one a sample, or none at all.
        attended: where the model's own mask says that there is a token.
        causal: whether tokens attend to what comes before them only, not to everything.

    Raises:
        InputError: if layouts and forward disagree.
    """
    samples, positions = attended.shape
    if len(layouts) != samples:
        raise InputError(
            f"The forward has {samples} samples, but {len(layouts)} layouts were given; give one "
            "each. Beam search and several sequences a prompt multiply samples and cannot be "
            "recorded: use num_beams=1."
        )
    for i, (layout, row) in enumerate(zip(layouts, attended, strict=True)):
        _refuse_misfit(i, layout, row, causal=causal)
    clips = clips or [None] * samples
    return [
        Stream(layout.without_padding(), clip, np.flatnonzero(layout.is_real), positions)
        for layout, clip in zip(layouts, clips, strict=True)
    ]


def frames_attended(
    layouts: Sequence[TokenLayout], mask: Tensor | None, *, attends: bool
) -> Bool[np.ndarray, "sample position"]:
    """Which positions an encoder's forward attends to.

    Args:
        layouts: one a sample, covering every position.
        mask: what the encoder itself was given, true at real frames; None where it masks nothing.
        attends: whether its blocks have attention at all.

    Raises:
        InputError: if the mask is of other samples or positions.
    """
    shape = (len(layouts), len(layouts[0]))
    if mask is None:
        attended = np.ones(shape, bool)
        for row, layout in zip(attended, layouts, strict=True):
            if not attends and len(layout) == len(row):
                row[:] = layout.is_real
        return attended
    if tuple(mask.shape) != shape:
        raise InputError(
            f"The encoder got a mask of {tuple(mask.shape)} where the layouts say {shape} (sample, "
            "frame); give one entry for each frame."
        )
    return mask.bool().cpu().numpy()


def _refuse_misfit(
    sample: int, layout: TokenLayout, attended: Bool[np.ndarray, " position"], *, causal: bool
) -> None:
    if len(layout) != len(attended):
        raise InputError(
            f"Sample {sample}: its layout covers {len(layout)} positions, the forward has "
            f"{len(attended)}; the layout must say what every position is, {PADDING!r} included."
        )
    real = layout.is_real
    if not real.any():
        raise InputError(f"Sample {sample} has no token that is not padding.")
    hidden = np.flatnonzero(real & ~attended)
    if len(hidden):
        raise InputError(
            f"Sample {sample}: position {hidden[0]} is {layout.segments[hidden[0]]!r} in the "
            f"layout, but the attention mask hides it; label it {PADDING!r}."
        )
    last = int(np.flatnonzero(real)[-1]) if causal else len(real)
    open_padding = np.flatnonzero(~real[:last] & attended[:last])
    if len(open_padding):
        raise InputError(
            f"Sample {sample}: position {open_padding[0]} is padding in the layout, but "
            f"{'later' if causal else 'other'} tokens attend to it; give the model an "
            "attention_mask that hides it."
        )


def decode_tokens(
    streams: Sequence[Stream],
    ids: Sequence[Sequence[int]] | None,
    attended: Bool[np.ndarray, "sample position"],
    ends: Ends,
) -> list[Bool[np.ndarray, " position"]]:
    """Which positions of a decode step are tokens, for every stream; marks those that ended."""
    found = []
    for i, (stream, row) in enumerate(zip(streams, attended, strict=True)):
        real = row
        if ids is not None:
            tokens, stream.ended = ends.real(ids[i], ended=stream.ended)
            real = row & tokens
        found.append(real)
    return found


def side_by_side(places: Int[np.ndarray, " place"]) -> Index:
    """The places as a slice where they are consecutive."""
    if not len(places):
        return slice(0, 0)
    first, last = int(places[0]), int(places[-1])
    if last - first + 1 == len(places):
        return slice(first, last + 1)
    return torch.from_numpy(places)


def at(index: Index, tensor: Tensor, axis: int) -> Tensor:
    """What stands at those places of an axis."""
    if isinstance(index, slice):
        return tensor[(slice(None),) * (axis % tensor.ndim) + (index,)]
    return tensor.index_select(axis, index.to(tensor.device))
