"""Tokens of one clip at two rates: cosines, best matches, the fitted line and the diagonal."""

import numpy as np
from matplotlib.axes import Axes

from sinkscope.analysis.rate_match import TokenMatch
from sinkscope.analysis.rate_similarity import clip_match
from sinkscope.analysis.rates import rate_of
from sinkscope.plots.captions import entitle, layer_words, model_words, sample_words
from sinkscope.plots.style import drawing, plain
from sinkscope.record import Record

__all__ = ["rate_similarity"]

FIT = "#56B4E9"
MATCH = "#009E73"


def rate_similarity(
    one: Record,
    other: Record,
    *,
    layer: int,
    segment: str = "audio",
    sample: int = 0,
    site: str = "resid_post",
    centred: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Cosine of every token at the coarse rate to every token at the fine one, over seconds.

    A green dot marks the best match of each fine token, the dashed white line is the diagonal
    (equal seconds), the blue line the fit through the mean place of each coarse token's partners.

    Args:
        one: a record that keeps ``site``.
        other: of the same clips at another rate.
        layer: 0-based block.
        segment: ``"audio"`` or ``"video"``.
        sample: which clip.
        site: which kept states.
        centred: take the mean state of each rate off first.
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: the stream has one rate only, or there is no such layer or sample.
        SiteError: a record does not hold the site.
    """
    match = clip_match(
        one, other, layer=layer, segment=segment, sample=sample, site=site, centred=centred
    )
    rates = sorted({rate_of(record, segment) for record in (one, other)})
    with drawing(ax, figsize=(7.4, 4.9)) as axes:
        _draw_cosines(axes, match)
        _draw_lines(axes, match)
        axes.set_xlabel(f"{segment} tokens at rate {rates[0]}: time in the clip (s)")
        axes.set_ylabel(f"{segment} tokens at rate {rates[1]}: time in the clip (s)")
        entitle(
            axes,
            "The same clip at two rates",
            model_words(one.provenance),
            layer_words(layer),
            plain(site) + (", mean taken off" if centred else ""),
            sample_words(one, sample),
            f"slope {match.slope:.2f} tokens (ratio of the rates {rates[1] / rates[0]:g})",
            f"{match.inside:.0%} of the matches at their own time, {match.deviation:.2f} s off on "
            "average",
            above=17,
        )
    return axes


def _draw_cosines(ax: Axes, match: TokenMatch) -> None:
    edges = [np.append(s[:, 0], s[-1, 1]) for s in (match.fine_seconds, match.coarse_seconds)]
    mesh = ax.pcolormesh(*edges, match.cosine, cmap="magma", rasterized=True)
    bar = ax.figure.colorbar(mesh, ax=ax, shrink=0.85, aspect=30, pad=0.02)
    bar.set_label("cosine (-1 to 1)")
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    ax.set_xlim(edges[0][0], edges[0][-1])
    ax.set_ylim(edges[1][-1], edges[1][0])


def _draw_lines(ax: Axes, match: TokenMatch) -> None:
    middle = match.fine_seconds.mean(1)
    matched = match.coarse_seconds[match.best].mean(1)
    ax.plot(middle, matched, "o", color=MATCH, mec="white", mew=0.5, ms=4, label="best match")
    end = min(match.fine_seconds[-1, 1], match.coarse_seconds[-1, 1])
    ax.plot([0, end], [0, end], color="white", ls="--", lw=1.2, label="diagonal")
    slope, intercept = match.line(seconds=True)
    if np.isfinite(slope):
        along = np.array([0.0, match.coarse_seconds[-1, 1]])
        ax.plot(slope * along + intercept, along, color=FIT, lw=1.6, label="fit")
    legend = ax.legend(loc="lower left", ncols=3, bbox_to_anchor=(0.0, 1.0), borderaxespad=0.1)
    for line in legend.get_lines():
        if line.get_label() == "diagonal":
            line.set_color("#6B6B6B")
