"""What the tables on experts say, in a sentence or two; p are corrected for all rows (Holm)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from sinkscope.analysis.holm import holm

__all__ = ["EXPERT_WRITERS"]


def usage_sentences(table: pd.DataFrame) -> str:
    """The busiest expert of each layer over all tokens."""
    whole: Any = _whole(table)
    busiest = whole.loc[whole.groupby("layer")["usage"].idxmax()]
    experts = table.attrs["experts"]
    told = [f"expert {row.expert} in layer {row.layer} ({row.usage:.0%})" for row in _rows(busiest)]
    return (
        f"Of {experts} routed experts, {table.attrs['top_k']} a token. Most often chosen, of all "
        f"choices of {_tokens(whole)} (even: {1 / experts:.0%}): {_few(told)}."
    )


def balance_sentences(table: pd.DataFrame) -> str:
    """Entropy and balance over layers, all tokens."""
    whole = _whole(table)
    low, high = whole["usage_entropy"].min(), whole["usage_entropy"].max()
    own = whole["token_entropy"].mean()
    unused = int(whole["unused"].sum())
    never = (
        f"experts that no token of their layer chose: {unused} of {len(whole)} × "
        f"{table.attrs['experts']}"
        if unused
        else "every expert is chosen by some token of its layer"
    )
    return (
        f"Over {len(whole)} layer{'s' * (len(whole) > 1)}, {_tokens(whole)}: expert usage has "
        f"{low:.2f} to {high:.2f} of the largest entropy, a single token's router {own:.2f}; "
        f"balance E · Σ f p is {whole['balance'].min():.2f} to {whole['balance'].max():.2f} (1 is "
        f"even), the busiest expert does up to {whole['max_over_mean'].max():.1f} times the mean; "
        f"{never}."
    )


def sink_sentences(table: pd.DataFrame) -> str:
    """Where sinks share an expert more often than other tokens do."""
    if table.empty:
        return "No layer with a router has an attention sink: there is no routing of sinks to tell."
    told = np.where(table["control"].isna(), table["anywhere_p"], table["p"]).astype(float)
    told = np.where(table["sinks"] > 1, told, np.nan)
    corrected = holm(told)
    tests = int(np.isfinite(told).sum())
    said = [_sinks_of(row, p) for row, p in zip(_rows(table), corrected, strict=True)]
    if tests > 1:
        said.append(f"Each p is corrected for {tests} comparisons (Holm).")
    return " ".join(said)


def _sinks_of(row: Any, p: float) -> str:
    said = (
        f"Layer {row.layer}: {row.share:.0%} of the {row.sinks} {row.segment} sinks "
        f"{'gets' if row.sinks == 1 else 'get'} expert {row.expert}"
    )
    if row.sinks == 1:
        return f"{said}; one token says nothing of a common expert."
    if row.control == row.control:  # not NaN
        return f"{said}, of other {row.segment} tokens {_chance(row.control, p)}."
    if row.anywhere == row.anywhere:  # not NaN
        return f"{said}, of any other tokens {_chance(row.anywhere, p)}."
    return f"{said}; there are too few other tokens to compare with."


def _chance(share: float, p: float) -> str:
    verdict = "no more than by chance" if p >= 0.05 else "more than by chance"
    return f"{share:.0%} have one in common ({verdict}, p = {p:.3f})"


def claim_sentences(table: pd.DataFrame) -> str:
    """The verdict of every segment on usage across rates and layers."""
    layers = len(table.attrs["layers"])
    told = [_claim(row, layers) for row in _rows(table)]
    if set(table["verdict"]) - {"not testable"}:
        told.append(
            f"Means are over {layers} layers and "
            f"{len(table.attrs['pairs'])} pairs of rates; the intervals are over clips, and say "
            "nothing of other layers or rates."
        )
    if "all" in set(table["segment"]):
        told.append("In all tokens every segment counts the same at every rate.")
    return " ".join([*told, _CAVEAT] if "as reported" in set(table["verdict"]) else told)


def _why_not(row: Any, layers: int) -> str:
    """What an interval of the difference would need."""
    if not row.rates_compared:
        return f"the {row.segment} rate is the same at all pairs"
    return "one layer has no other to compare with" if layers < 2 else "one clip has no interval"


def _claim(row: Any, layers: int) -> str:
    name = "All tokens" if row.segment == "all" else f"{row.segment.capitalize()} tokens"
    if row.verdict == "not testable":
        return f"{name}: not testable, {_why_not(row, layers)}."
    shuffled = "above" if row.rates > row.rates_control_high else "not above"
    difference = f"[{row.difference_low:.2f}, {row.difference_high:.2f}]"
    return (
        f"{name}: {_VERDICTS[row.verdict]}: the mean total variation of expert usage is "
        f"{row.rates:.2f} between rates and {row.layers:.2f} between layers (layers minus rates "
        f"{row.difference:.2f} {difference}, {row.clips} clips). Between rates it is {shuffled} "
        f"what shuffled labels give ({row.rates_control:.2f}, 95 % below "
        f"{row.rates_control_high:.2f})."
    )


_CAVEAT = (
    "Experts of one number in two layers are different experts, so routers that were never trained "
    "differ between layers too: this says that rates share experts, not that layers divide work."
)

_VERDICTS = {
    "as reported": "as reported, much the same across rates and different across layers",
    "few clips": "too few clips to judge (6 are needed)",
    "partly": "partly as reported, more alike across rates than across layers but not the same",
    "not established": "not established that layers differ more than rates",
    "not as reported": "not as reported, rates differ more than layers",
}


def distance_sentences(table: pd.DataFrame) -> str:
    """Smallest and largest distances of both kinds, and how many are told from shuffled labels."""
    shown = table.loc[~table["same_rate"].fillna(False).astype(bool)]
    corrected = pd.Series(holm(shown["p"].to_numpy(float)), shown.index)
    told = []
    for kind in ("rates", "layers"):
        own = shown.loc[shown["kind"] == kind]
        if own.empty:
            continue
        low, left = (int((p.loc[own.index] < 0.05).sum()) for p in (shown["p"], corrected))
        told.append(
            f"Between {kind} the total variation of expert usage is {own['tv'].min():.2f} to "
            f"{own['tv'].max():.2f}; against shuffled labels p < 0.05 in {low} of {len(own)} "
            f"comparisons, in {left} after Holm's correction for all {len(shown)}."
        )
    if len(shown) < len(table):
        told.append(
            f"Left out: {len(table) - len(shown)} comparisons of audio or video tokens at one rate "
            "of their own."
        )
    clips, draws = int(shown["clips"].max()) if len(shown) else 0, table.attrs["draws"]
    least = max(2 / 2**clips, 1 / (1 + draws))
    if clips and least * len(shown) >= 0.05:
        several = f"{clips} clip{'s' * (clips > 1)} and {draws} draws"
        told.append(
            f"With {several} no p can be below {least:.2g}, so that none of {len(shown)} can be "
            "told apart after the correction: see usage_across_rates for their mean."
        )
    return " ".join(told)


def _rows(table: Any) -> Any:
    return table.itertuples(index=False)


def _whole(table: pd.DataFrame) -> Any:
    """The rows of all tokens; of the first segment where they were taken out."""
    segments = table["segment"].unique()
    return table.loc[table["segment"] == ("all" if "all" in segments else segments[0])]


def _tokens(rows: pd.DataFrame) -> str:
    name = rows["segment"].iloc[0]
    return "all tokens" if name == "all" else f"{name} tokens"


def _few(words: list[str], most: int = 6) -> str:
    return ", ".join(words[:most]) + (", ..." if len(words) > most else "")


EXPERT_WRITERS: dict[str, Callable[[pd.DataFrame], str]] = {
    "expert_usage": usage_sentences,
    "expert_balance": balance_sentences,
    "sink_experts": sink_sentences,
    "usage_across_rates": claim_sentences,
    "usage_distances": distance_sentences,
}
"""By the ``table`` of their ``attrs``."""
