"""Which of an encoder's frames a token of the LLM was made of. Depends on layout and numpy.

By item (the n-th sound, picture or film of the forward), by overlap in seconds, and by patch: the
grid of the encoder is finer than that of the LLM by a whole number. What a layout does not say does
not part them.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from sinkscope.layout import TokenLayout

__all__ = ["frames_of_tokens"]


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
    for number, layout in enumerate(frames):
        covers = np.tile(layout.mask(segment), (len(places), 1))
        covers &= _same_item(tokens, places, layout, alike=number == sample)
        covers &= _overlap(tokens.seconds[places], layout.seconds)
        for axis in ("row", "column"):
            covers &= _same_patch(tokens, places, layout, axis)
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


def _same_patch(
    tokens: TokenLayout, places: np.ndarray, frames: TokenLayout, axis: str
) -> Bool[np.ndarray, "token frame"]:
    """Whether the patch lies in the row (or column) of the token, whose grid is coarser."""
    one, other = tokens.descriptors.get(axis), frames.descriptors.get(axis)
    if one is None or other is None:
        return np.ones((len(places), len(frames)), bool)
    coarse = _sizes(tokens, axis)[places]
    fine = _sizes(frames, axis)
    scaled = np.floor((other[None] + 0.5) * coarse[:, None] / fine[None])
    return scaled == one[places][:, None]


def _sizes(layout: TokenLayout, axis: str) -> Float[np.ndarray, " token"]:
    """For each token the number of rows (or columns) of its picture."""
    values = layout.descriptors[axis]
    items = layout.descriptors.get("item", np.zeros(len(layout)))
    sizes = np.full(len(layout), np.nan)
    for segment in dict.fromkeys(layout.segments):
        for item in np.unique(items[layout.mask(segment)]):
            same = layout.mask(segment) & (items == item)
            known = values[same][~np.isnan(values[same])]
            sizes[same] = known.max() + 1 if len(known) else np.nan
    return sizes
