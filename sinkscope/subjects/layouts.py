"""Layouts of plain text and of padded batches. Depends on the layout and numpy.

Example:
    >>> layout = text_layout([1, 5, 6], ["<s>", "a", "b"], bos=1)
    >>> pad_layout(layout, np.array([False, True, True, True])).segments
    ('padding', 'bos', 'text', 'text')
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from sinkscope.errors import InputError
from sinkscope.glossary import PADDING
from sinkscope.layout import TokenLayout

__all__ = ["fit_layouts", "numbered_layout", "pad_layout", "text_layout"]

Real = Bool[np.ndarray, " token"]


def text_layout(ids: Sequence[int], labels: Sequence[str], *, bos: int | None) -> TokenLayout:
    """The layout of real text tokens; the first is BOS if it has that id."""
    return TokenLayout.of_text(labels, has_bos=bos is not None and len(ids) > 0 and ids[0] == bos)


def numbered_layout(length: int) -> TokenLayout:
    """The layout of embeddings of which nothing is known: labels e0, e1 ... of segment text."""
    return TokenLayout.of_text([f"e{i}" for i in range(length)], has_bos=False)


def pad_layout(layout: TokenLayout, real: Real) -> TokenLayout:
    """Spread the layout of the real tokens over a padded sample.

    Args:
        layout: one entry for each true entry of ``real``.
        real: true where the padded sample holds a token.
    """
    if real.all():
        return layout
    places = np.flatnonzero(real)
    segments = np.full(len(real), PADDING, dtype=object)
    labels = np.full(len(real), "", dtype=object)
    seconds = np.full((len(real), 2), np.nan)
    segments[places], labels[places], seconds[places] = (
        layout.segments,
        layout.labels,
        layout.seconds,
    )
    descriptors = {
        name: _spread(values, places, len(real)) for name, values in layout.descriptors.items()
    }
    return TokenLayout(
        tuple(segments), tuple(labels), seconds, int(places[layout.reference]), descriptors
    )


def fit_layouts(
    given: TokenLayout | Sequence[TokenLayout], real: Bool[np.ndarray, "sample token"]
) -> tuple[TokenLayout, ...]:
    """The caller's layouts, one a sample, made to cover every position of a padded batch.

    Args:
        given: for each sample a layout of its real tokens, or of all positions with the padding
            labelled as such; a single one serves a batch of one.
        real: true where the batch holds a token.

    Raises:
        InputError: if their number, their length or their padding is not that of the batch.
    """
    layouts = (given,) if isinstance(given, TokenLayout) else tuple(given)
    if len(layouts) != len(real):
        raise InputError(f"layout: {len(layouts)} layouts for {len(real)} samples; give one each.")
    return tuple(
        _fit(layout, row, i) for i, (layout, row) in enumerate(zip(layouts, real, strict=True))
    )


def _fit(layout: TokenLayout, real: Real, sample: int) -> TokenLayout:
    tokens = int(real.sum())
    if len(layout) == tokens and layout.is_real.all():
        return pad_layout(layout, real)
    if len(layout) == len(real) and (layout.is_real == real).all():
        return layout
    raise InputError(
        f"layout of sample {sample}: it has {len(layout)} entries, {int(layout.is_real.sum())} of "
        f"them real, but the input has {len(real)} positions, {tokens} of them real; label every "
        f"real token, and padding as {PADDING!r} or not at all."
    )


def _spread(values: np.ndarray, places: np.ndarray, length: int) -> np.ndarray:
    blank = "" if values.dtype.kind in "US" else np.nan
    spread = np.full(length, blank, dtype=values.dtype if values.dtype.kind in "US" else float)
    spread[places] = values
    return spread
