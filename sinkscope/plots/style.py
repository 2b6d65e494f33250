r"""How the figures look: one style, colours that colour-blind readers can tell apart, safe texts.

Depends on matplotlib and the glossary. A plot draws inside ``drawing(ax)``, which makes a figure
only where none was given, and leaves matplotlib's global settings as they were.

Example:
    >>> plain("cost_$x$")
    'cost_\\$x\\$'
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, get_font

__all__ = [
    "ACCENT",
    "MUTED",
    "SCORES",
    "SEGMENT_COLORS",
    "STYLE",
    "UNSEEN",
    "drawing",
    "leader",
    "name_line",
    "plain",
]

SCORES = "magma"
"""Sequential colour map of scores: its lightness rises evenly, so it also reads in grey."""

ACCENT = "#D55E00"
"""Colour of what was found: sinks, massive activations."""

MUTED = "#6B6B6B"
"""Colour of subtitles, guides and everything that is context."""

UNSEEN = "#EDEDED"
"""Colour of a cell that no query sees or that was not recorded."""

SEGMENT_COLORS: dict[str, str] = {
    "bos": "#000000",
    "audio": "#0072B2",
    "video": "#E69F00",
    "delimiter": "#555555",
    "instruction": "#009E73",
    "response": "#CC79A7",
    "text": "#56B4E9",
    "audiovisual": "#4B1EC8",
    "appended_silence": "#6B5B2E",
    "padding": "#D9D9D9",
    "image": "#D55E00",
    "system": "#99CC77",
}
"""A colour for each segment: those of the Okabe-Ito set, and more for what few models have."""

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9A9A9A",
    "axes.linewidth": 0.8,
    "axes.unicode_minus": False,
    "xtick.color": "#3A3A3A",
    "ytick.color": "#3A3A3A",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "text.usetex": False,
    "svg.fonttype": "none",
}
"""The settings that hold while a figure is drawn."""

LONGEST = 16


@contextmanager
def drawing(
    ax: Axes | None, *, figsize: tuple[float | int, float | int], projection: str | None = None
) -> Iterator[Axes]:
    """The axes to draw on, in sinkscope's style: the given ones, or those of a new figure."""
    with _styled():
        if ax is None:
            figure = plt.figure(figsize=figsize, layout="constrained")
            ax = figure.add_subplot(projection=projection)
        yield ax


@contextmanager
def _styled() -> Iterator[None]:
    """The style, while open; but a notebook's backend, which may wake here, stays interactive."""
    with mpl.rc_context(STYLE):
        yield
        interactive = mpl.is_interactive()
    mpl.interactive(interactive)


def plain(text: object, *, longest: int = LONGEST) -> str:
    """A text of a model or file, made safe to draw.

    Dollar signs do not start a formula, line breaks and tabs are written out, a character that the
    font lacks becomes a middle dot, and what is longer than ``longest`` is cut with an ellipsis.
    """
    words = str(text).replace("\r", "\\r").replace("\n", "\\n").replace("\t", "\\t")
    words = "".join(c if ord(c) in _drawable(_family()) else "·" for c in words)
    if len(words) > longest:
        words = words[: longest - 1] + "…"
    return words.replace("$", r"\$")


def name_line(ax: Axes, name: str, end: float, place: float, *, color: str) -> None:
    """Write what a line is beside the axes, at ``place``, and lead to its right ``end``."""
    side = ax.get_yaxis_transform()
    ax.annotate(
        name,
        (1, end),
        (1.04, place),
        xycoords=side,
        textcoords=side,
        color=color,
        fontsize=8,
        fontweight="bold",
        va="center",
        annotation_clip=False,
        arrowprops=leader(color) | {"relpos": (0.0, 0.5)},
    )


def leader(color: str) -> dict[str, Any]:
    """A thin line from a label to its place, for matplotlib's ``arrowprops``."""
    return {"arrowstyle": "-", "color": color, "lw": 0.6, "shrinkA": 0, "shrinkB": 0}


def _family() -> tuple[str, ...]:
    family = mpl.rcParams["font.family"]
    names = [family] if isinstance(family, str) else family
    return tuple(names)


@lru_cache(maxsize=4)
def _drawable(families: tuple[str, ...]) -> frozenset[int]:
    """The characters that at least one of the fonts can draw."""
    fonts = (get_font(findfont(FontProperties(family=[family]))) for family in families)
    return frozenset(code for font in fonts for code in font.get_charmap())
