"""Activation magnitudes of one layer over tokens and features, as bars in space."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sinkscope.errors import InputError
from sinkscope.plots.captions import entitle, layer_words, model_words, sample_words
from sinkscope.plots.found import massive_here, massive_words
from sinkscope.plots.style import ACCENT, SEGMENT_COLORS, drawing, plain
from sinkscope.plots.tallest import Tallest, tallest
from sinkscope.record import Record

__all__ = ["magnitudes_3d"]

MOST_BARS = 400
MOST_NAMES = 8


def magnitudes_3d(
    record: Record,
    *,
    layer: int,
    sample: int = 0,
    massive: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """|x| of the residual stream leaving a layer as bars over tokens and features.

    The 400 tallest bars are drawn, in the colour of their token's segment; those of massive
    activations in orange. What is lower would be flat at this scale.

    Args:
        record: one or several samples.
        layer: 0-based block.
        sample: which sample.
        massive: what ``find_massive_activations`` returned; with the subject's ratio if left out.
        ax: axes made with ``projection="3d"``; a new figure if left out.

    Raises:
        InputError: if there is no such sample or layer, or the axes are flat.
    """
    if ax is not None and ax.name != "3d":
        raise InputError('magnitudes_3d: the axes are flat; make them with projection="3d".')
    known = tallest(record, layer=layer, sample=sample, where="magnitudes_3d")
    layout = record.layouts[sample]
    table = massive_here(record, massive, sample=sample, layer=layer)
    drawn = np.argsort(-known.magnitude, kind="stable")[:MOST_BARS]
    with drawing(ax, figsize=(7.6, 5.2), projection="3d") as axes:
        space: Any = axes
        _bars(space, known, drawn, layout.segments, table)
        _names(space, _by_height(table, "token"), "x", layout.labels)
        _names(space, _by_height(table, "feature"), "y", None)
        space.set_xlabel("token", labelpad=16)
        space.set_ylabel("feature (index)", labelpad=10)
        space.set_zlabel("|x| (model units)")
        space.set_zlim(0, None)
        space.view_init(elev=22, azim=-58)
        space.set_box_aspect((1.5, 1.3, 0.9), zoom=1.12)
        for axis in (space.xaxis, space.yaxis, space.zaxis):
            axis.set_pane_color((0.97, 0.97, 0.97, 1.0))
        entitle(
            axes,
            "Activation magnitudes",
            model_words(record.provenance),
            layer_words(layer),
            "resid_post",
            sample_words(record, sample),
            massive_words(table).replace("bold", "orange"),
            f"the {len(drawn)} tallest bars of {len(known.token)}"
            if len(drawn) < len(known.token)
            else "",
        )
    return axes


def _bars(
    space: Any, known: Tallest, drawn: np.ndarray, segments: tuple[str, ...], table: pd.DataFrame
) -> None:
    """The chosen bars, the widest that still stand apart."""
    token, feature = known.token[drawn], known.feature[drawn]
    marked = set(zip(table["token"], table["feature"], strict=True))
    colors = [
        ACCENT if (t, f) in marked else SEGMENT_COLORS[segments[t]]
        for t, f in zip(token.tolist(), feature.tolist(), strict=True)
    ]
    width = max(0.7, len(segments) / 90)
    depth = max(0.7, int(known.feature.max(initial=1)) / 90)
    space.bar3d(
        token - width / 2,
        feature - depth / 2,
        np.zeros(len(drawn)),
        width,
        depth,
        known.magnitude[drawn],
        color=colors,
        shade=True,
        linewidth=0,
    )


def _by_height(table: pd.DataFrame, column: str) -> list[int]:
    """The massive tokens or features, the tallest first."""
    order = table.sort_values("magnitude", ascending=False)[column].tolist()
    return list(dict.fromkeys(map(int, order)))[:MOST_NAMES]


def _names(space: Any, found: list[int], axis: str, labels: tuple[str, ...] | None) -> None:
    """Tick labels for what was found; near neighbours share one. Plain ticks where nothing was."""
    if not found:
        return
    low, high = getattr(space, f"get_{axis}lim")()
    groups: list[list[int]] = []
    for place in sorted(found):
        if groups and place - groups[-1][-1] < 0.06 * (high - low):
            groups[-1].append(place)
        else:
            groups.append([place])
    words = [
        "\n".join(f"{plain(labels[place])} ({place})" if labels else str(place) for place in group)
        for group in groups
    ]
    getattr(space, f"set_{axis}ticks")([float(np.mean(group)) for group in groups], words)
    for text in getattr(space, f"get_{axis}ticklabels")():
        text.set(color=ACCENT, fontweight="bold", fontsize=7.5)
