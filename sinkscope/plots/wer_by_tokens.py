"""Word error rate against the tokens that it took: one model at many rates, or several models."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter

from sinkscope.errors import InputError
from sinkscope.plots.captions import entitle
from sinkscope.plots.style import MUTED, SEGMENT_COLORS, drawing, plain

__all__ = ["wer_by_tokens"]

NEEDED = ("modality", "audio_rate", "video_rate", "tokens", "wer", "wer_low", "wer_high")
MARKS = (("o", "-"), ("s", "--"), ("D", ":"), ("^", "-."))
"""Marker and line of each model."""

WORDS = {"audio": "sound", "video": "picture", "audiovisual": "sound and picture"}


def wer_by_tokens(table: pd.DataFrame, *, condition: str = "clean", ax: Axes | None = None) -> Axes:
    """How many words are wrong when so many audio and video tokens reach the LLM.

    A line joins the points of a modality; at each stand its rates (encoder frames a token; audio
    first where both are read). Bars are the table's 95 % intervals; one utterance has none. Several
    models, told by a column ``model``, have lines of their own; the rates are written once, at the
    uppermost.

    Args:
        table: of an evaluation at several rates: its ``table.csv``, or ``to_frame()``.
        condition: what was heard, for a table with a column ``condition``.
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: if columns are missing, or nothing of the condition was scored, or there are
            more models than lines that can be told apart.
    """
    rows = _rows(table, condition)
    models = list(dict.fromkeys(rows["model"]))
    if len(models) > len(MARKS):
        raise InputError(
            f"wer_by_tokens: the table has {len(models)} models, and {len(MARKS)} can be told "
            "apart; draw fewer at once."
        )
    with drawing(ax, figsize=(6.4, 4.2)) as axes:
        for place, model in enumerate(models):
            for modality in rows["modality"].unique():
                own = (rows["model"] == model) & (rows["modality"] == modality)
                _draw(axes, rows.loc[own].sort_values("tokens"), str(modality), place)
        _name_points(axes, rows)
        axes.set_xlabel("audio and video tokens that reach the LLM (mean an utterance)")
        axes.set_ylabel("word error rate")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlim(0, 1.08 * float(rows["tokens"].to_numpy().max()))
        axes.set_ylim(0, 1.15 * float(rows["wer_high"].to_numpy().max()) or 1)
        axes.grid(axis="y", color="#E4E4E4", lw=0.6)
        axes.legend(handles=_handles(rows, models), loc="best")
        entitle(
            axes,
            "Word errors by tokens",
            plain(models[0], longest=48) if len(models) == 1 and models[0] else "",
            condition if "condition" in table else "",
            "numbers: encoder frames a token (audio:video)",
            "bars: 95 % intervals",
        )
    return axes


def _rows(table: pd.DataFrame, condition: str) -> pd.DataFrame:
    """The lines that are drawn, with a column ``model``."""
    missing = [name for name in NEEDED if name not in table]
    if missing:
        raise InputError(
            f"wer_by_tokens: the table has no {missing[0]}; give that of an evaluation with rates."
        )
    rows = table.loc[table["condition"] == condition] if "condition" in table else table
    rows = rows.dropna(subset=["wer", "tokens"]).reset_index(drop=True)
    if rows.empty:
        raise InputError(
            f"wer_by_tokens: nothing was scored in the condition {condition!r}; give another."
        )
    ends = {name: rows[name].fillna(rows["wer"]) for name in ("wer_low", "wer_high")}
    rows = rows.assign(**ends)
    return rows if "model" in rows else rows.assign(model="")


def _draw(ax: Axes, line: pd.DataFrame, modality: str, number: int) -> None:
    marker, style = MARKS[number]
    color = SEGMENT_COLORS.get(modality, MUTED)
    spread = [line["wer"] - line["wer_low"], line["wer_high"] - line["wer"]]
    ax.errorbar(
        line["tokens"].to_numpy(),
        line["wer"].to_numpy(),
        yerr=[one.clip(lower=0).to_numpy() for one in spread],
        color=color,
        marker=marker,
        ms=4.5,
        ls=style,
        lw=1.4,
        elinewidth=0.8,
        capsize=2,
    )


def _name_points(ax: Axes, rows: pd.DataFrame) -> None:
    """The rates of each point, above the uppermost bar that stands there."""
    for _, here in rows.groupby(["modality", "audio_rate", "video_rate"], dropna=False):
        top = here.loc[here["wer_high"].idxmax()]
        rates = [top[name] for name in ("audio_rate", "video_rate") if not pd.isna(top[name])]
        ax.annotate(
            ":".join(f"{rate:g}" for rate in rates),
            (float(top["tokens"]), float(top["wer_high"])),
            (0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=7.5,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            color=SEGMENT_COLORS.get(str(top["modality"]), MUTED),
        )


def _handles(rows: pd.DataFrame, models: list[str]) -> list[Line2D]:
    """The colours of the modalities and, where there are several, the lines of the models."""
    found = [
        Line2D([], [], color=SEGMENT_COLORS.get(str(one), MUTED), lw=2, label=WORDS.get(one, one))
        for one in dict.fromkeys(rows["modality"])
    ]
    if len(models) > 1:
        found += [
            Line2D(
                [], [], color=MUTED, marker=mark, ms=4.5, ls=style, label=plain(name, longest=40)
            )
            for name, (mark, style) in zip(models, MARKS, strict=False)
        ]
    return found
