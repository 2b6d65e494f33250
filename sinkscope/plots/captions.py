"""What every figure says of itself: model, layer, averaging, sample. Depends on the record."""

import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from sinkscope.errors import InputError
from sinkscope.glossary import paper_layer
from sinkscope.plots.style import MUTED, plain
from sinkscope.record import Record

__all__ = ["count_words", "entitle", "layer_words", "model_words", "refuse_sample", "sample_words"]

LONGEST_NAME = 48


def layer_words(layer: int) -> str:
    """A layer in both numberings.

    Example:
        >>> layer_words(4)
        'layer 4 (paper: 5)'
    """
    return f"layer {layer} (paper: {paper_layer(layer)})"


def model_words(provenance: Mapping[Any, Any]) -> str:
    """The model's name and whether its input began with BOS.

    Example:
        >>> model_words({"subject": "tiny-avsr", "prepend_bos": False})
        'tiny-avsr · without BOS'
    """
    name = plain(provenance.get("subject") or "model not named", longest=LONGEST_NAME)
    bos = provenance.get("prepend_bos")
    if not isinstance(bos, bool):
        return name
    return f"{name} · {'with' if bos else 'without'} BOS"


def sample_words(record: Record, sample: int) -> str:
    """The clip's name, or the sample's number."""
    clip = record.clips[sample]
    return plain(clip.name, longest=LONGEST_NAME) if clip else f"sample {sample}"


def count_words(table: pd.DataFrame) -> str:
    """Over how many samples a table averages; "" for one."""
    samples = len(set(table["sample"]))
    return f"mean over {samples} samples" if samples > 1 else ""


def refuse_sample(record: Record, sample: int, *, where: str) -> None:
    """Refuse a sample that the record does not hold.

    Raises:
        InputError: naming the samples that there are.
    """
    if not 0 <= sample < len(record):
        raise InputError(f"{where}: no sample {sample}; the record has 0 to {len(record) - 1}.")


def entitle(ax: Axes, title: str, *subtitle: str, above: float | int = 0, panels: int = 1) -> None:
    """Give the axes a title and, in small print under it, what a reader must know.

    Args:
        ax: the axes.
        title: what is shown.
        subtitle: parts, joined by middle dots and wrapped to the width of the axes.
        above: points to leave free between the axes and the subtitle (for bands).
        panels: axes of this width side by side, of which this is the first: the subtitle runs on
            above the others.
    """
    width = panels * ax.get_window_extent().width * 72 / ax.figure.dpi
    words = " · ".join(part for part in subtitle if part)
    lines = textwrap.wrap(words, max(30, int(1.12 * width / 3.8)), break_long_words=False)
    small = ax.annotate(
        "\n".join(lines),
        (0, 1),
        (0, above + 5),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8,
        color=MUTED,
        va="bottom",
        ha="left",
        annotation_clip=False,
        linespacing=1.25,
    )
    small.set_in_layout(panels == 1)  # the title's pad leaves its height; its width is the others'
    ax.set_title(title, loc="left", pad=above + 9 + 10.5 * len(lines))
