"""sink_agreement: do the sinks of one rate lie where those of another lie? Depends on record.

A token with seconds lies where a sink of the other rate does if their middles are at most half a
token apart, of the wider one. Tokens without seconds (BOS, delimiters, the prompt) are the same
token at every rate: they agree by label and order.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from sinkscope.analysis.bootstrap import LEVEL
from sinkscope.analysis.rates import Pair, check_rates, own_rate
from sinkscope.analysis.sink_tables import sinks_at, sinks_of_rates
from sinkscope.analysis.tables import check_whole, make_table
from sinkscope.layout import TokenLayout
from sinkscope.record import Record

__all__ = ["sink_agreement"]


def sink_agreement(
    records: Mapping[Pair, Record], sinks: pd.DataFrame, *, draws: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Share of the sinks of one rate that have a sink at the same place at another rate.

    The control draws as many random tokens of the same segment and clip in place of the sinks:
    where tokens are few, wide, or mostly sinks, chance alone agrees.

    Args:
        records: those in which the sinks were found.
        sinks: what ``sinks_by_rate`` returned for them.
        draws: of random tokens.
        seed: of the draws.

    Returns:
        One row for every two pairs, each way round, and segment that has sinks at the first:
        ``audio_rate video_rate other_audio_rate other_video_rate segment``, ``same_rate`` (whether
        the segment's own rate is the same in both; empty where it has none), ``sinks`` (at the
        first, over all clips), ``agree`` (their share with a sink at the other), ``control`` (mean
        share of random tokens) with ``control_low`` and ``control_high`` (95 % of the draws),
        ``p`` (share of draws that agree at least as often), and ``alone`` (whether no clip has
        another token of the segment to draw, as BOS: the control says nothing then).

    Raises:
        InputError: the table is another one or of other records, the records are not fit to be
            compared, or draws or a seed are no whole number.
    """
    check_rates(records, where="sink_agreement")
    sinks = sinks_of_rates(sinks, records, where="sink_agreement")
    check_whole("draws", draws, least=1)
    check_whole("seed", seed, least=0)
    rng = np.random.default_rng(seed)
    rows = []
    for pair, record in records.items():
        own = sinks_at(sinks, pair)
        for other, target in records.items():
            if other == pair:
                continue
            theirs = sinks_at(sinks, other)
            near = [_near(record, target, theirs, sample) for sample in range(len(record))]
            for segment in dict.fromkeys(own["segment"]):
                chosen = own.loc[own["segment"] == segment]
                rates = own_rate(pair, segment), own_rate(other, segment)
                row = {"audio_rate": pair[0], "video_rate": pair[1]}
                row |= {"other_audio_rate": other[0], "other_video_rate": other[1]}
                row |= {"segment": segment}
                row |= {"same_rate": None if rates[0] is None else rates[0] == rates[1]}
                rows.append(row | _agreement(record.layouts, segment, chosen, near, draws, rng))
    columns = ["audio_rate", "video_rate", "other_audio_rate", "other_video_rate", "segment"]
    columns += [
        "same_rate",
        "sinks",
        "agree",
        "control",
        "control_low",
        "control_high",
        "p",
        "alone",
    ]
    table = pd.DataFrame(rows, columns=columns)
    table["same_rate"] = table["same_rate"].astype("boolean")
    attrs = {"table": "sink_agreement", "pairs": list(records), "draws": draws, "seed": seed}
    return make_table(table, next(iter(records.values())), attrs)


def _near(
    record: Record, other: Record, theirs: pd.DataFrame, sample: int
) -> Bool[np.ndarray, " token"]:
    """Which tokens of a clip have a sink of the other rate at their place, in their segment."""
    one, two = record.layouts[sample], other.layouts[sample]
    sinks = theirs.loc[theirs["sample"] == sample, "token"].to_numpy(np.int64)
    near = np.zeros(len(one), bool)
    names = {_name(two, int(token)) for token in sinks}
    for token in range(len(one)):
        if not np.isfinite(one.seconds[token]).all():
            near[token] = _name(one, token) in names
            continue
        same = [t for t in sinks if two.segments[t] == one.segments[token]]
        spans = two.seconds[same]
        apart = np.abs(spans.mean(1) - one.seconds[token].mean())
        width = np.maximum(spans[:, 1] - spans[:, 0], np.ptp(one.seconds[token]))
        near[token] = bool((apart <= width / 2 + 1e-9).any())
    return near


def _name(layout: TokenLayout, token: int) -> tuple[str, str, int]:
    """What a token without seconds is called: segment, label, and how often the label came."""
    label, segment = layout.labels[token], layout.segments[token]
    earlier = zip(layout.labels[:token], layout.segments[:token], strict=True)
    return segment, label, sum(one == (label, segment) for one in earlier)


def _agreement(
    layouts: tuple[TokenLayout, ...],
    segment: str,
    chosen: pd.DataFrame,
    near: list[Bool[np.ndarray, " token"]],
    draws: int,
    rng: np.random.Generator,
) -> dict[str, float | int | bool]:
    """How many of the chosen sinks are near, and of random tokens in their place."""
    hits, drawn, alone = 0, np.zeros(draws), True
    for sample, own in chosen.groupby("sample"):
        number = int(sample)  # pyright: ignore[reportArgumentType]
        tokens = own["token"].to_numpy(np.int64)
        candidates = near[number][layouts[number].mask(segment)]
        alone &= len(candidates) == 1
        hits += int(near[number][tokens].sum())
        drawn += _draw(candidates, len(tokens), draws, rng)
    shares = drawn / len(chosen)
    low, high = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {
        "sinks": len(chosen),
        "agree": hits / len(chosen),
        "control": float(shares.mean()),
        "control_low": float(low),
        "control_high": float(high),
        "p": float((1 + (drawn >= hits - 1e-9).sum()) / (1 + draws)),
        "alone": alone,
    }


def _draw(
    candidates: Bool[np.ndarray, " candidate"], count: int, draws: int, rng: np.random.Generator
) -> Int[np.ndarray, " draw"]:
    """Of ``count`` tokens drawn without replacement, how many are near; one number a draw."""
    good = int(candidates.sum())
    return rng.hypergeometric(good, len(candidates) - good, count, size=draws)
