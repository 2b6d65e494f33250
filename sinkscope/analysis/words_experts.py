"""What the tables on experts say, in a sentence or two. Depends on pandas only."""

from collections.abc import Callable
from typing import Any

import pandas as pd

__all__ = ["EXPERT_WRITERS"]


def usage_sentences(table: pd.DataFrame) -> str:
    """The busiest expert of each layer over all tokens."""
    whole: Any = table.loc[table["segment"] == "all"]
    busiest = whole.loc[whole.groupby("layer")["usage"].idxmax()]
    experts = table.attrs["experts"]
    told = [f"expert {row.expert} in layer {row.layer} ({row.usage:.0%})" for row in _rows(busiest)]
    return (
        f"Of {experts} routed experts, {table.attrs['top_k']} a token. Most often chosen, of all "
        f"choices (even: {1 / experts:.0%}): {_few(told)}."
    )


def balance_sentences(table: pd.DataFrame) -> str:
    """Entropy and balance over layers, all tokens."""
    whole = table.loc[table["segment"] == "all"]
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
        f"Expert usage has {low:.2f} to {high:.2f} of the largest entropy, a single token's router "
        f"{own:.2f}; balance E · Σ f p is {whole['balance'].min():.2f} to "
        f"{whole['balance'].max():.2f} (1 is even), the busiest expert does up to "
        f"{whole['max_over_mean'].max():.1f} times the mean; {never}."
    )


def sink_sentences(table: pd.DataFrame) -> str:
    """Where sinks share an expert more often than other tokens do."""
    if table.empty:
        return "No layer with a router has an attention sink: there is no routing of sinks to tell."
    return " ".join(_sinks_of(row) for row in _rows(table))


def _sinks_of(row: Any) -> str:
    said = (
        f"Layer {row.layer}: {row.share:.0%} of the {row.sinks} {row.segment} sinks "
        f"{'gets' if row.sinks == 1 else 'get'} expert {row.expert}"
    )
    if row.sinks == 1:
        return f"{said}; one token says nothing of a common expert."
    if row.control == row.control:  # not NaN
        return f"{said}, of other {row.segment} tokens {_chance(row.control, row.p)}."
    if row.anywhere == row.anywhere:  # not NaN
        return f"{said}, of any other tokens {_chance(row.anywhere, row.anywhere_p)}."
    return f"{said}; there are too few other tokens to compare with."


def _chance(share: float, p: float) -> str:
    verdict = "no more than by chance" if p >= 0.05 else "more than by chance"
    return f"{share:.0%} have one in common ({verdict}, p = {p:.3f})"


def claim_sentences(table: pd.DataFrame) -> str:
    """The verdict of every segment on usage across rates and layers."""
    told = [_claim(row) for row in _rows(table)]
    return " ".join([*told, _CAVEAT] if "as reported" in set(table["verdict"]) else told)


def _claim(row: Any) -> str:
    name = "All tokens" if row.segment == "all" else f"{row.segment.capitalize()} tokens"
    if row.verdict == "not testable":
        return f"{name}: not testable with {row.clips} clip{'s' * (row.clips > 1)} or one layer."
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
    "partly": "partly as reported, more alike across rates than across layers but not the same",
    "not established": "not established that layers differ more than rates",
    "not as reported": "not as reported, rates differ more than layers",
}


def distance_sentences(table: pd.DataFrame) -> str:
    """Medians and largest distances of both kinds."""
    told = []
    least = 2 / 2 ** table.attrs["samples"]
    for kind in ("rates", "layers"):
        own = table.loc[table["kind"] == kind]
        if own.empty:
            continue
        above = int((own["p"] < 0.05).sum())
        told.append(
            f"Between {kind} the total variation of expert usage is {own['tv'].min():.2f} to "
            f"{own['tv'].max():.2f}, with p < 0.05 against shuffled labels in {above} of "
            f"{len(own)} comparisons."
        )
    if least >= 0.05:
        told.append(f"With {table.attrs['samples']} clips no p can be below {least:.2f}.")
    return " ".join(told)


def _rows(table: Any) -> Any:
    return table.itertuples(index=False)


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
