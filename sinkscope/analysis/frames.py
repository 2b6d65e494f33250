"""Which of an encoder's frames a token of the LLM was made of. Depends on layout and numpy.

By item (the n-th sound, picture or film of the forward), by its view where there are several, by
overlap in seconds, and by patch: the grid of the encoder is finer than that of the LLM. What a
layout does not say does not part them.
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
    axes = [axis for axis in ("row", "column") if _have(axis, tokens, *frames)]
    coarse = {axis: _sizes([tokens], axis)[0][places] for axis in axes}
    fine = {axis: _sizes(frames, axis) for axis in axes}
    found = []
    for number, layout in enumerate(frames):
        covers = np.tile(layout.mask(segment), (len(places), 1))
        covers &= _same_item(tokens, places, layout, alike=number == sample)
        covers &= _same_view(tokens, places, layout)
        covers &= _overlap(tokens.seconds[places], layout.seconds)
        for axis in axes:
            place = layout.descriptors[axis][None] + 0.5
            scaled = np.floor(place * coarse[axis][:, None] / fine[axis][number][None])
            covers &= scaled == tokens.descriptors[axis][places][:, None]
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


def _same_view(
    tokens: TokenLayout, places: np.ndarray, frames: TokenLayout
) -> Bool[np.ndarray, "token frame"]:
    """Whether both are of the same view of a picture, or one of them is of no view."""
    one, other = _told(tokens, "view")[places][:, None], _told(frames, "view")[None]
    return (one == other) | np.isnan(one) | np.isnan(other)


def _have(axis: str, *layouts: TokenLayout) -> bool:
    return all(axis in layout.descriptors for layout in layouts)


def _told(layout: TokenLayout, name: str) -> Float[np.ndarray, " token"]:
    return layout.descriptors.get(name, np.full(len(layout), np.nan))


def _sizes(layouts: Sequence[TokenLayout], axis: str) -> list[Float[np.ndarray, " token"]]:
    """For each token the number of rows (or columns) of its picture, which samples may share."""
    keys = [
        list(
            zip(
                layout.segments,
                np.nan_to_num(_told(layout, "item"), nan=-1.0).tolist(),
                np.nan_to_num(_told(layout, "view"), nan=-1.0).tolist(),
                strict=True,
            )
        )
        for layout in layouts
    ]
    sizes: dict[tuple[str, float, float], float] = {}
    for layout, own in zip(layouts, keys, strict=True):
        for key, place in zip(own, layout.descriptors[axis].tolist(), strict=True):
            if not np.isnan(place):
                sizes[key] = max(sizes.get(key, 0.0), place + 1)
    return [np.array([sizes.get(key, np.nan) for key in own], float) for own in keys]
