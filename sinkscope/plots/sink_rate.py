"""Key attention of one token in every layer and head, and each layer's sink rate beside it."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from sinkscope.analysis.attention import key_attention
from sinkscope.analysis.attention import sink_rate as rate_of
from sinkscope.errors import InputError
from sinkscope.plots.captions import entitle, model_words, refuse_sample, sample_words
from sinkscope.plots.grid import show_grid, write_cells
from sinkscope.plots.style import ACCENT, drawing, plain
from sinkscope.record import Record

__all__ = ["sink_rate"]

MOST_NUMBERS = 160
FRAME = "#56B4E9"


def sink_rate(
    record: Record,
    *,
    token: int | None = None,
    sample: int | None = None,
    threshold: float | int = 0.3,
    ax: Axes | None = None,
) -> Axes:
    """How much attention each head of each layer gives to one token.

    A cell is the key attention of the token in that layer and head (mean over the queries that
    see it), 0 to 1; heads above the threshold are framed. Their share, the layer's sink rate,
    stands at the right.

    Args:
        record: one or several samples.
        token: which token; BOS (or the reference token) if left out.
        sample: which sample; all of them, averaged, if left out and no token is named.
        threshold: key attention above which a head holds a sink, strictly.
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: if there is no such sample or token.
    """
    samples = _samples(record, sample, token)
    tokens = [record.layouts[s].reference if token is None else token for s in samples]
    alpha = key_attention(record)
    picked = [alpha.isel(sample=s, key=t) for s, t in zip(samples, tokens, strict=True)]
    cells = np.nanmean([one.transpose("layer", "head").values for one in picked], axis=0)
    rates = np.array([rate_of(row[:, None], threshold=threshold)[0] for row in cells])
    with drawing(ax, figsize=_size(*cells.shape)) as axes:
        image = show_grid(
            axes, cells, norm=Normalize(0, 1), label="key attention α (fraction 0–1)", gap=0.13
        )
        axes.invert_yaxis()
        if cells.size <= MOST_NUMBERS:
            write_cells(axes, image, cells)
        _frame(axes, cells > threshold)
        _write_rates(axes, rates)
        _label(axes, record.layers, cells.shape[1])
        entitle(
            axes,
            f"Attention to {_token_words(record, samples, tokens)}",
            model_words(record.provenance),
            "mean over queries" + (f" and {len(samples)} samples" if len(samples) > 1 else ""),
            sample_words(record, samples[0]) if len(samples) == 1 else "",
            f"framed: α > {threshold:g}",
            above=12,
        )
    return axes


def _samples(record: Record, sample: int | None, token: int | None) -> list[int]:
    if sample is None and token is None:
        return list(range(len(record)))
    chosen = 0 if sample is None else sample
    refuse_sample(record, chosen, where="sink_rate")
    length = len(record.layouts[chosen])
    if token is not None and not 0 <= token < length:
        raise InputError(f"sink_rate: no token {token}; sample {chosen} has 0 to {length - 1}.")
    return [chosen]


def _token_words(record: Record, samples: list[int], tokens: list[int]) -> str:
    layout, token = record.layouts[samples[0]], tokens[0]
    label = plain(layout.labels[token])
    if layout.segments[token] == "bos":
        return f"BOS ({label})"
    where = f"token {token} ({label}"
    return f"{where}, the reference)" if token == layout.reference else f"{where})"


def _size(layers: int, heads: int) -> tuple[float | int, float | int]:
    return max(5.4, 1.9 + 0.5 * min(heads, 20)), min(9.0, 1.9 + 0.36 * layers)


def _frame(ax: Axes, marked: np.ndarray) -> None:
    for row, column in np.argwhere(marked):
        ax.add_patch(
            Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, ec=FRAME, lw=1.6)
        )


def _write_rates(ax: Axes, rates: np.ndarray) -> None:
    every = max(1, -(-len(rates) // 24))
    place = ax.get_yaxis_transform()
    for row in range(0, len(rates), every):
        strong = rates[row] > 0
        ax.text(
            1.015,
            row,
            f"{rates[row]:.0%}",
            transform=place,
            va="center",
            fontsize=8,
            fontweight="bold" if strong else "normal",
            color=ACCENT if strong else "#6B6B6B",
        )
    ax.annotate(
        "sink rate",
        (1.015, 1),
        (0, 3),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8,
        color="#3A3A3A",
    )


def _label(ax: Axes, layers: list[int], heads: int) -> None:
    every = max(1, -(-len(layers) // 24))
    ax.set_yticks(range(0, len(layers), every), [str(x) for x in layers[::every]])
    step = max(1, -(-heads // 16))
    ax.set_xticks(range(0, heads, step), [str(head) for head in range(0, heads, step)])
    ax.set_xlabel("head")
    ax.set_ylabel("layer (0-based; papers count from 1)")
