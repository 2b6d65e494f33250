"""Segment bands along an axis of tokens, and labels of single tokens that stay apart.

Depends on matplotlib and the layout. Positions are token indices, a token is one unit wide.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.transforms import ScaledTranslation, Transform

from sinkscope.glossary import SEGMENTS
from sinkscope.layout import TokenLayout
from sinkscope.plots.spread import spread
from sinkscope.plots.style import ACCENT, MUTED, SEGMENT_COLORS, leader, plain

__all__ = [
    "Run",
    "draw_bands",
    "label_tokens",
    "runs",
    "tokens_to_label",
    "turning_points",
    "write_upright",
]

Side = Literal["top", "bottom", "left"]

BAND = 5.0
"""Width of a band in points."""

NAMED_ON_THE_BAND = tuple(name for name in SEGMENTS if name not in ("bos", "delimiter"))
FEW = 32
PITCH = 9.5
"""Points from one upright label to the next."""


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens of one segment: ``start`` up to, not including, ``stop``."""

    segment: str
    start: int
    stop: int

    @property
    def centre(self) -> float:
        """Where the run's middle lies on an axis of tokens."""
        return (self.start + self.stop - 1) / 2


def runs(layout: TokenLayout) -> list[Run]:
    """The runs of a layout, in order."""
    starts = [0] + [i for i in range(1, len(layout)) if _changes(layout, i)]
    stops = [*starts[1:], len(layout)]
    return [Run(layout.segments[a], a, b) for a, b in zip(starts, stops, strict=True)]


def turning_points(layout: TokenLayout) -> list[int]:
    """Tokens that stand between the long segments: BOS and delimiters."""
    return [i for i, segment in enumerate(layout.segments) if segment in ("bos", "delimiter")]


def tokens_to_label(layout: TokenLayout, sinks: Iterable[int] = ()) -> list[int]:
    """All tokens where there are few, otherwise BOS, delimiters and sinks."""
    if len(layout) <= FEW:
        return list(range(len(layout)))
    return sorted({*turning_points(layout), *sinks})


def draw_bands(ax: Axes, layout: TokenLayout, *, side: Side = "top", names: bool = True) -> None:
    """Draw one coloured band for each run just outside the axes, with the segments' names."""
    upright = side == "left"
    outward = 2 + BAND / 2
    place = _outside(ax, side, outward)
    edge = 1.0 if side == "top" else 0.0
    found = runs(layout)
    ends = [[(run.start - 0.5, edge), (run.stop - 0.5, edge)] for run in found]
    if upright:
        ends = [[(y, x) for x, y in pair] for pair in ends]
    colors = [SEGMENT_COLORS[run.segment] for run in found]
    bands = LineCollection(
        ends, colors=colors, linewidths=BAND, transform=place, clip_on=False, capstyle="butt"
    )
    ax.add_collection(bands, autolim=False)
    if upright:
        ax.tick_params(axis="y", length=0, pad=outward + BAND / 2 + 2)
    if names:
        _draw_names(ax, [r for r in found if r.segment in NAMED_ON_THE_BAND], side, len(layout))


def label_tokens(
    ax: Axes, layout: TokenLayout, tokens: Iterable[int], *, bold: Sequence[int] = (), title: str
) -> None:
    """Write "label (index)" upright under the axes for each token, and the axis's title below.

    Labels of neighbours move apart and keep a line to their token. Where there is no room for all,
    those of ``bold`` come first, in their order, and the title counts the others.

    Args:
        ax: axes whose x is the token.
        layout: says the labels.
        tokens: those that get a label.
        bold: those that are written in bold and colour.
        title: what the axis is.
    """
    strong = set(bold)
    wanted = [*bold, *(token for token in tokens if token not in strong)]
    low, high = ax.get_xlim()
    room = max(1, int((high - low) * _unit_points(ax, "x") / PITCH))
    words = {token: f"{plain(layout.labels[token])} ({token})" for token in wanted[:room]}
    write_upright(ax, {float(token): text for token, text in words.items()}, bold=bold)
    longest = max((len(text) for text in words.values()), default=0)
    left_out = f"; {len(wanted) - room} labels left out" if len(wanted) > room else ""
    ax.set_xlabel(title + left_out, labelpad=12 + 4.7 * longest)


def write_upright(
    ax: Axes, words: Mapping[float, str], *, bold: Iterable[float | int] = ()
) -> None:
    """Write texts upright under the axes at their places, moved apart, with a line to each."""
    chosen, strong = sorted(words), set(bold)
    low, high = ax.get_xlim()
    size = _unit_points(ax, "x")
    places = spread(chosen, [PITCH / size] * len(chosen), low=low, high=high)
    foot = ax.get_xaxis_transform()
    below = foot + ScaledTranslation(0, -13 / 72, ax.figure.dpi_scale_trans)
    for token, place in zip(chosen, places, strict=True):
        ax.annotate(
            words[token],
            (token, 0),
            (place, 0),
            xycoords=foot,
            textcoords=below,
            rotation=90,
            ha="center",
            va="top",
            fontsize=7.5,
            fontweight="bold" if token in strong else "normal",
            color=ACCENT if token in strong else "#3A3A3A",
            annotation_clip=False,
            arrowprops=leader(MUTED) | {"relpos": (0.5, 1.0)},
        )
    ax.set_xticks(chosen, [""] * len(chosen))


def _changes(layout: TokenLayout, i: int) -> bool:
    """Whether a new run begins at token ``i``; each delimiter is a run of its own."""
    before, here = layout.segments[i - 1], layout.segments[i]
    return before != here or here == "delimiter"


def _outside(ax: Axes, side: Side, points: float | int) -> Transform:
    """Tokens along the axis, and ``points`` outside of its edge across it."""
    if side == "left":
        shift = ScaledTranslation(-points / 72, 0, ax.figure.dpi_scale_trans)
        return ax.get_yaxis_transform() + shift
    up = points if side == "top" else -points
    shift = ScaledTranslation(0, up / 72, ax.figure.dpi_scale_trans)
    return ax.get_xaxis_transform() + shift


def _unit_points(ax: Axes, axis: Literal["x", "y"]) -> float:
    """How many points one token is wide, about: the layout may still move the axes a little."""
    box = ax.get_window_extent()
    extent = box.width if axis == "x" else box.height
    low, high = ax.get_xlim() if axis == "x" else ax.get_ylim()
    return max(0.85 * extent * 72 / ax.figure.dpi / max(abs(high - low), 1e-9), 1e-6)


def _draw_names(ax: Axes, named: list[Run], side: Side, length: int) -> None:
    upright = side == "left"
    size = _unit_points(ax, "y" if upright else "x")
    widths = [(4.6 * len(run.segment) + 6) / size for run in named]
    while named and sum(widths) > length:
        shortest = min(range(len(named)), key=lambda i: named[i].stop - named[i].start)
        del named[shortest], widths[shortest]
    places = spread([run.centre for run in named], widths, low=-0.5, high=length * 1.06)
    inner, outer = _outside(ax, side, BAND + 3), _outside(ax, side, BAND + 11)
    edge = 1.0 if side == "top" else 0.0
    for run, position in zip(named, places, strict=True):
        ends = [(run.centre, edge), (position, edge)]
        tip, foot = [(y, x) for x, y in ends] if upright else ends
        ax.annotate(
            run.segment,
            tip,
            foot,
            xycoords=inner,
            textcoords=outer,
            rotation=90 if upright else 0,
            ha="right" if upright else "center",
            va="center" if upright else ("bottom" if side == "top" else "top"),
            fontsize=8,
            fontweight="bold",
            color=SEGMENT_COLORS[run.segment],
            annotation_clip=False,
            arrowprops=leader(SEGMENT_COLORS[run.segment]),
        )
