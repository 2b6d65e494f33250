"""Which of an encoder's frames a token of the LLM was made of. Depends on layout and numpy.

By item (the n-th sound, picture or film of the forward), by overlap in seconds, by view, and by
patch: a token joins a whole number of the encoder's rows and columns. What a layout does not say
does not part them; but frames without a place make no token that has one.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from sinkscope.layout import TokenLayout

__all__ = ["frames_of_tokens"]

_PATCH = ("item", "view", "row", "column")


def frames_of_tokens(
    tokens: TokenLayout, segment: str, frames: Sequence[TokenLayout], *, sample: int
) -> list[Bool[np.ndarray, "token frame"]]:
    """For each sample of the encoder, which of its frames each token covers.

    Args:
        tokens: a sample of the LLM.
        segment: the stream; the tokens are those of this segment, in order.
        frames: the encoder's samples, whose frames of this segment count.
        sample: the number of the LLM's sample, which pairs the two where layouts have no items.

    Example:
        >>> import numpy as np
        >>> llm = TokenLayout.of(["audio"], ["a0"], seconds=np.array([[0.0, 0.08]]))
        >>> times = np.array([[0.0, 0.04], [0.04, 0.08], [0.08, 0.12]])
        >>> heard = TokenLayout.of(["audio"] * 3, ["a0", "a1", "a2"], seconds=times)
        >>> frames_of_tokens(llm, "audio", [heard], sample=0)[0].tolist()
        [[True, True, False]]
    """
    places = np.flatnonzero(tokens.mask(segment))
    found = []
    pictures, finer = _grids([tokens], segment), _grids(frames, segment)
    for number, layout in enumerate(frames):
        covers = np.tile(layout.mask(segment), (len(places), 1))
        covers &= _same_item(tokens, places, layout, alike=number == sample)
        covers &= _overlap(tokens.seconds[places], layout.seconds)
        covers &= _same_patch(tokens, places, layout, pictures=pictures, finer=finer)
        found.append(covers)
    return found


def _same_item(
    tokens: TokenLayout, places: np.ndarray, frames: TokenLayout, *, alike: bool
) -> Bool[np.ndarray, "token frame"]:
    one, other = tokens.descriptors.get("item"), frames.descriptors.get("item")
    if one is None or other is None:
        return np.full((len(places), len(frames)), alike)
    return one[places][:, None] == other[None]


def _overlap(
    spans: Float[np.ndarray, "token 2"], frames: Float[np.ndarray, "frame 2"]
) -> Bool[np.ndarray, "token frame"]:
    """Whether at least half of a frame, or of the token, lies in the other's span."""
    start = np.maximum(spans[:, None, 0], frames[None, :, 0])
    shared = np.minimum(spans[:, None, 1], frames[None, :, 1]) - start
    shorter = np.minimum(np.ptp(spans, axis=1)[:, None], np.ptp(frames, axis=1)[None])
    return np.isnan(shared) | (shared > 0.5 * shorter - 1e-9)


Grids = dict[tuple[float, ...], Float[np.ndarray, " axis"]]
"""Rows and columns of each view of each picture."""


def _same_patch(
    tokens: TokenLayout,
    places: np.ndarray,
    frames: TokenLayout,
    *,
    pictures: Grids,
    finer: Grids,
) -> Bool[np.ndarray, "token frame"]:
    """Whether a patch is of the view, row and column of a token, which joins several of each."""
    covers = np.ones((len(places), len(frames)), bool)
    if "row" not in tokens.descriptors or np.isnan(tokens.descriptors["row"][places]).all():
        return covers
    if "row" not in frames.descriptors:
        return ~covers
    own, other = _patches(tokens)[places], _patches(frames)
    for row, token in zip(covers, own, strict=True):
        picture = tuple(token[:2])
        if picture not in pictures or picture not in finer:
            row[:] = False
            continue
        by = _joined(finer[picture], pictures[picture])
        row[:] = (other[:, :2] == token[:2]).all(1) & ((other[:, 2:] + 0.5) // by == token[2:]).all(
            1
        )
    return covers


def _patches(layout: TokenLayout) -> Float[np.ndarray, "token 4"]:
    """Picture, view, row and column of each token; rows and columns are NaN where it has none."""
    named = {name: layout.descriptors.get(name, np.zeros(len(layout))) for name in _PATCH}
    named["view"] = np.nan_to_num(named["view"], nan=-1.0)
    return np.stack([named[name] for name in _PATCH], axis=1)


def _grids(layouts: Sequence[TokenLayout], segment: str) -> Grids:
    """The grids of all pictures of a segment; the crops of one may be several samples."""
    held = [
        _patches(layout)[layout.mask(segment)] for layout in layouts if "row" in layout.descriptors
    ]
    patches = np.concatenate([np.zeros((0, 4)), *held])
    known = patches[~np.isnan(patches).any(axis=1)]
    return {
        tuple(picture): known[(known[:, :2] == picture).all(1), 2:].max(axis=0) + 1
        for picture in np.unique(known[:, :2], axis=0)
    }


def _joined(
    fine: Float[np.ndarray, " axis"], coarse: Float[np.ndarray, " axis"]
) -> Float[np.ndarray, " axis"]:
    """How many rows and columns of the encoder one of the LLM joins: as many of both, if it can be.

    A view that was shrunk by another ratio joins a fraction.

    Example:
        >>> _joined(np.array([5.0, 3.0]), np.array([2.0, 1.0])).tolist()
        [2.0, 2.0]
    """
    if not (fine % coarse).any():
        return fine / coarse
    for by in range(1, int(fine.max()) + 1):
        if ((fine // by == coarse) | (np.ceil(fine / by) == coarse)).all():
            return np.full(2, float(by))
    return fine / coarse
