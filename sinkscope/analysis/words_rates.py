"""What the tables on several rates say, in a sentence or two. Depends on pandas only."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from sinkscope.analysis.rates import rate_words

__all__ = ["RATE_WRITERS"]

TIED = ("audio", "video", "audiovisual")
"""Segments whose tokens have seconds."""


def similarity_sentences(table: pd.DataFrame) -> str:
    """Of each stream the layer whose tokens match best along the clip's time."""
    told = []
    for segment, own in table.groupby("segment", sort=False):
        row: Any = own.loc[own["deviation"].idxmin()]
        slope = (
            f"The fitted slope is {row.slope:.2f} fine tokens a coarse one{_interval(row)}, the "
            f"ratio of the rates {row.expected:g}."
            if np.isfinite(row.slope)
            else "Too few coarse tokens were chosen to fit a slope."
        )
        told.append(
            f"{str(segment).capitalize()} at rates {row.fine_rate} and {row.coarse_rate}: of "
            f"{len(own)} layer{'s' * (len(own) > 1)}, tokens match best in layer {row.layer}, "
            f"{row.inside:.0%} with a token of their own time, {row.deviation:.2f} s off on average"
            f"{_by_chance(row)}. {slope}"
        )
    return " ".join(told)


def _by_chance(row: Any) -> str:
    """What the control gives, and how far the match lies above it."""
    if not np.isfinite(row.control_inside):
        return ""
    point, low, high = (f"{100 * row[f'above_inside{end}']:.0f}" for end in ("", "_low", "_high"))
    return (
        f"; with the tokens of another clip {row.control_inside:.0%}, which is {point} points "
        f"[{low}, {high}] less than over the same time of their own ({row.clips} clips)"
    )


def _interval(row: Any) -> str:
    known = np.isfinite(row.slope_low)
    return f" [{row.slope_low:.2f}, {row.slope_high:.2f}]" if known else ""


def sink_sentences(table: pd.DataFrame) -> str:
    """Which labels are sinks at which pair of rates."""
    told = []
    for pair in table.attrs["pairs"]:
        own = table.loc[(table["audio_rate"] == pair[0]) & (table["video_rate"] == pair[1])]
        labels = own["label"].value_counts(sort=True).head(4)
        found = ", ".join(f"{label!r} ×{count}" for label, count in labels.items())
        more = ", ..." if own["label"].nunique() > len(labels) else ""
        told.append(f"{rate_words(pair)} {found + more if found else 'none'}")
    return f"Sinks by rates (audio, video), tokens over all clips: {'; '.join(told)}."


def share_sentences(table: pd.DataFrame) -> str:
    """Share of all tokens that are sinks, by pair, fewest tokens last."""
    whole: Any = table.loc[table["segment"] == "all"].sort_values("tokens", ascending=False)
    told = [
        f"{rate_words((row.audio_rate, row.video_rate))} {row.share:.1%} of {row.tokens} tokens, "
        f"{row.sinks_a_clip:.1f} a clip"
        for row in whole.itertuples(index=False)
    ]
    return f"Share of tokens that are sinks: {'; '.join(told)}."


def agreement_sentences(table: pd.DataFrame) -> str:
    """How often sinks of one rate lie where another rate has one."""
    if table.empty:
        return "No sink at any rate: there is nothing to compare."
    told = []
    same: Any = table["same_rate"].fillna(False).astype(bool)
    for tied in (True, False):
        rows = table.loc[table["segment"].isin(TIED) == tied]
        own = rows.loc[~same & ~table["alone"]]
        what = "audio and video sinks" if tied else "sinks without seconds (delimiters, text)"
        if own.empty:
            told.append(f"No {what} to compare{_left_out(rows, same)}.")
            continue
        sinks = own["sinks"].sum()
        agree = (own["agree"] * own["sinks"]).sum() / sinks
        chance = (own["control"] * own["sinks"]).sum() / sinks
        told.append(
            f"Of {what}, {agree:.0%} have a sink at the same place at another rate, of random "
            f"tokens of their segment {chance:.0%} (over {len(own)} comparisons of two rates"
            f"{_left_out(rows, same)})."
        )
    return " ".join(told)


def _left_out(rows: pd.DataFrame, same: Any) -> str:
    """How many comparisons say nothing, and why."""
    at_one = int(same.loc[rows.index].sum())
    alone = int((rows["alone"] & ~same.loc[rows.index]).sum())
    told = [
        f"{at_one} at one rate of their own" * (at_one > 0),
        f"{alone} with one token of the segment a clip" * (alone > 0),
    ]
    said = " and ".join(filter(None, told))
    return f"; {said} left out" if said else ""


RATE_WRITERS: dict[str, Callable[[pd.DataFrame], str]] = {
    "rate_similarity": similarity_sentences,
    "sinks_by_rate": sink_sentences,
    "sink_share": share_sentences,
    "sink_agreement": agreement_sentences,
}
"""By the ``table`` of their ``attrs``."""
