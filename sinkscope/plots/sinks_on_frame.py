"""Where on a picture the attention goes: the score of each patch's token laid over it."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sinkscope.analysis.attention import key_attention
from sinkscope.errors import InputError, SiteError
from sinkscope.plots.captions import (
    entitle,
    layer_words,
    model_words,
    refuse_sample,
    sample_words,
)
from sinkscope.plots.found import refuse_layer, sinks_or_find, strongest_layer, tokens_of
from sinkscope.plots.patches import Patches, patches_of
from sinkscope.plots.style import ACCENT, SCORES, drawing
from sinkscope.record import Record

__all__ = ["sinks_on_frame"]

COVER = 0.6
"""How much of the picture the colours hide."""

SCORE_WORDS = {
    "alpha": ("key attention α (fraction 0–1)", "mean over heads and queries"),
    "norm": ("norm of the state that leaves the block", ""),
}


def sinks_on_frame(
    record: Record,
    frame: Any,
    *,
    layer: int | None = None,
    sample: int = 0,
    segment: str | None = None,
    item: int | None = None,
    view: int | None = None,
    number: int | None = None,
    score: str = "alpha",
    sinks: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A picture, and over it how much attention the token of each patch draws.

    Rows and columns are those of the tokens, stretched over the picture; a patch without a token
    (the model left it out) stays grey, as the whole picture is, so that hues are scores. Sinks are
    framed.

    Args:
        record: of a model that sees pictures or films, with patches in its layouts.
        frame: what the model saw: (height, width), or with colours as a last axis; of a film the
            frame that the tokens show.
        layer: 0-based block; where the strongest intermediate sink is if left out.
        sample: which sample.
        segment: ``"image"`` or ``"video"``, where the sample has both.
        item: which picture or film, by its number in the layout; the sample's first if left out.
        view: which view of a picture that is seen twice; the most detailed one if left out.
        number: which of a film's frames of tokens, counted from 0; the one with the highest score
            if left out (the title says its seconds).
        score: ``"alpha"``, or ``"norm"`` of the states.
        sinks: what ``find_sinks`` returned; with its default thresholds if left out.
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: there is no such sample, layer, item or frame; no token shows a picture; the
            picture is no array of a picture's shape.
        SiteError: the record has no norms.
    """
    refuse_sample(record, sample, where="sinks_on_frame")
    picture = _picture(frame)
    frames = patches_of(record.layouts[sample], segment=segment, item=item, view=view)
    table = sinks_or_find(record, sinks)
    layer = strongest_layer(record, sample=sample, sinks=table) if layer is None else layer
    refuse_layer(layer, record.layers, where="sinks_on_frame")
    values = _scores(record, score, sample=sample, layer=layer)
    patches = _chosen(frames, values, number)
    found = [t for t in tokens_of(table, sample=sample, layer=layer) if t in patches.tokens]
    with drawing(ax, figsize=(5.6, 4.8)) as axes:
        _lay_over(axes, picture, patches.grid(values), SCORE_WORDS[score][0])
        _frame_sinks(axes, patches, found)
        axes.set_xlabel("column of patches")
        axes.set_ylabel("row of patches")
        entitle(
            axes,
            "Attention that patches draw" if score == "alpha" else "Norms of the patches",
            model_words(record.provenance),
            layer_words(layer),
            SCORE_WORDS[score][1],
            sample_words(record, sample),
            _what(patches),
            f"{len(found)} sink{'' if len(found) == 1 else 's'}",
        )
    return axes


def _picture(frame: Any) -> np.ndarray:
    picture = np.asarray(frame)
    if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] not in (1, 3, 4)):
        raise InputError(
            f"sinks_on_frame: the frame has shape {picture.shape}; give (height, width) or "
            "(height, width, colours)."
        )
    colours = picture.astype(float)
    return colours if colours.ndim == 2 else colours[..., :3].mean(axis=-1)


def _scores(record: Record, score: str, *, sample: int, layer: int) -> np.ndarray:
    """The score of each token of a sample in a layer."""
    if score not in SCORE_WORDS:
        raise InputError(f"sinks_on_frame: score is {score!r}; use {' or '.join(SCORE_WORDS)}.")
    if score == "norm" and "norm" not in record:
        raise SiteError("sinks_on_frame: the record has no norms; record it with ss.Norms().")
    values = key_attention(record).mean("head") if score == "alpha" else record["norm"]
    return values.isel(sample=sample).sel(layer=layer).values.astype(float)


def _chosen(frames: list[Patches], values: np.ndarray, number: int | None) -> Patches:
    if number is None:
        peaks = [np.nan_to_num(values[each.tokens]).max() for each in frames]
        return frames[int(np.argmax(peaks))]
    if not 0 <= number < len(frames):
        raise InputError(
            f"sinks_on_frame: there is no frame {number}; there are 0 to {len(frames) - 1}."
        )
    return frames[number]


def _lay_over(ax: Axes, picture: np.ndarray, grid: np.ndarray, label: str) -> None:
    """Grey picture and scores on one grid, on which a patch is one wide and one high."""
    rows, columns = grid.shape
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    aspect = (picture.shape[0] / rows) / (picture.shape[1] / columns)
    ax.imshow(picture, extent=extent, aspect=aspect, cmap="gray", interpolation="bilinear")
    known = grid[np.isfinite(grid) & (grid > 0)]
    wide = len(known) > 0 and known.max() > known.min()
    norm = LogNorm(known.min(), known.max()) if wide else Normalize(0, grid[~np.isnan(grid)].max())
    shown = ax.imshow(
        np.ma.masked_invalid(grid),
        extent=extent,
        aspect=aspect,
        cmap=SCORES,
        norm=norm,
        alpha=COVER,
        interpolation="nearest",
    )
    ax.set_xticks(range(0, columns, max(1, columns // 8)))
    ax.set_yticks(range(0, rows, max(1, rows // 8)))
    bar = ax.figure.colorbar(shown, cax=ax.inset_axes((1.03, 0.0, 0.04, 1.0)), label=label)
    bar.solids.set_alpha(1)  # pyright: ignore[reportOptionalMemberAccess]
    if wide:
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())


def _frame_sinks(ax: Axes, patches: Patches, found: list[int]) -> None:
    """A frame around the patch of each sink, the strongest on top."""
    for token in reversed(found):
        at = int(np.flatnonzero(patches.tokens == token)[0])
        corner = (patches.columns[at] - 0.5, patches.rows[at] - 0.5)
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=ACCENT, lw=2))


def _what(patches: Patches) -> str:
    """Which picture, or which frame of which film."""
    words = f"{patches.segment} {patches.item}"
    number, frames = patches.frame
    if frames > 1:
        words += f", frame {number} of {frames}"
    start, end = patches.seconds
    return words + ("" if np.isnan(start) else f" ({start:.2f}–{end:.2f} s)")
