"""What was found and tested, in a few sentences a line: only what the numbers say."""

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from sinkscope.analysis.ledger import BETWEEN
from sinkscope.analysis.published import match_published
from sinkscope.analysis.tables import as_ranges
from sinkscope.analysis.validation import validate_features
from sinkscope.analysis.words import describe
from sinkscope.interventions.findings import Findings
from sinkscope.interventions.measure import Effects
from sinkscope.interventions.standard import CONDITIONS, leading_neurons

__all__ = ["tell"]

FEW = 20
"""Samples below which the text says that they are few."""

SHOWN = 3
"""Kinds of tokens whose gate is told, and models that are named."""

HELD = 8
"""Features that a default record holds of each token."""

CHANCE = 1e-4
"""Probability above which shared features are no hint."""

_COSTS = (("loss", "loss", "{:.2f}"), ("wer", "word error rate", "{:.1%}"))
_AUTHORS = {
    "mlp": "by the MLP",
    "attention": "by attention",
    "experts": "by the experts",
    "embedding": "with the embedding",
    BETWEEN: "by what the model adds before it",
}


def tell(
    found: Findings,
    mechanics: pd.DataFrame | None,
    tests: pd.DataFrame,
    measured: Effects | None,
) -> str:
    """The story, one paragraph a line: found, born, written by, tested, and what to doubt."""
    lines = [describe(found.sinks), describe(found.massive), _outliers(found), _agreement(found)]
    lines += [_published(found), describe(mechanics) if mechanics is not None else ""]
    lines = [line for line in lines if line]
    if found.origin is None or not len(found.origin.births):
        return "\n".join([*lines, "There is nothing whose origin could be traced."])
    lines += [_born(found), _written(found), _removed(found), *_tested(tests, measured)]
    return "\n".join(line for line in [*lines, _doubt(found)] if line)


def _outliers(found: Findings) -> str:
    if not found.outliers:
        return ""
    several = len(found.outliers) > 1
    return (
        f"Left out: feature{'s' * several} {', '.join(map(str, found.outliers))}, large at more "
        f"than half of all tokens, so tied to no sink."
    )


def _agreement(found: Findings) -> str:
    """Whether having the massive features and being a sink go together."""
    if not len(found.massive) or not len(found.sinks) or len(found.record.layers) < 2:
        return ""
    rules = found.rules.of_sinks
    rules.pop("cosine")
    rules |= {"features": found.features} if len(found.features) <= HELD else {}
    parts = []
    for name, with_reference in (("with", True), ("without", False)):
        scores = validate_features(
            found.record, need="any", with_reference=with_reference, **rules
        ).iloc[-1]
        precision, recall = (_percent(scores[score]) for score in ("precision", "recall"))
        parts.append(f"precision {precision}, recall {recall} {name} the reference token")
    return f"As a sign of a sink, having any of these features has {'; '.join(parts)}."


def _percent(share: float) -> str:
    return "not defined" if np.isnan(share) else f"{share:.0%}"


def _published(found: Findings) -> str:
    """A public checkpoint whose published features are all among those found."""
    if not len(found.massive):
        return ""
    width = found.record.provenance.get("d_model")
    matches = match_published(found.features, d_model=width)
    sure = matches.loc[matches["contained"] & (matches["chance"] < CHANCE)]
    if not len(sure):
        return ""
    names = ", ".join(dict.fromkeys(sure["model"].tolist()[:SHOWN]))
    return f"All features that were published for {names} are among them: a hint, not a proof."


def _born(found: Findings) -> str:
    births = found.births
    numbers = sorted(set(births["feature"].tolist()))
    features = ", ".join(map(str, numbers))
    what = f"feature {features} is" if len(numbers) == 1 else f"features {features} are"
    if set(births["criterion"].tolist()) != {"massive"}:
        what = f"the largest features of the sinks ({features}, not massive by the ratio) are"
    groups: dict[tuple[int, str], list[float]] = {}
    rows = zip(
        births["layer"].tolist(), births["part"].tolist(), births["share"].tolist(), strict=True
    )
    for layer, part, share in rows:
        groups.setdefault((layer, part), []).append(share)
    places = [
        f"in layer {layer} (0-based) {_AUTHORS[part]}{_did(part, shares)} "
        f"({len(shares)} of {len(births)} values)"
        for (layer, part), shares in sorted(groups.items())
    ]
    return f"Born: {what} born {'; '.join(places)}."


def _did(part: str, shares: list[float]) -> str:
    if part == "embedding":
        return ""
    what = "change" if part == BETWEEN else "block's change"
    return f", which makes {np.median(shares):.0%} of the {what}"


def _written(found: Findings) -> str:
    chosen = leading_neurons(found)
    if found.origin is None or not chosen:
        why = "; ".join(sorted(set(found.origin.unreadable.values()))) if found.origin else ""
        return f"The neurons could not be read: {why}." if why else ""
    leading = found.origin.neurons.loc[found.origin.neurons["rank"] == 0]
    sentences = []
    for layer, which in chosen.items():
        for neuron in which:
            own = leading.loc[(leading["layer"] == layer) & (leading["neuron"] == neuron)]
            if len(own):
                features = ", ".join(map(str, sorted(set(own["feature"].tolist()))))
                sentences.append(
                    f"neuron {neuron} of layer {layer} writes {np.median(own['share']):.0%} of "
                    f"what the MLP adds to {features} (median). {_gate(own)}"
                )
    return "Written by: " + " ".join(sentences)


def _gate(own: pd.DataFrame) -> str:
    """The gate, or the activation where there is none, side by side with other tokens."""
    name = "act" if np.isnan(own["gate"].to_numpy(float)).all() else "gate"
    word = "Its gate, before the activation function," if name == "gate" else "Its activation"
    kinds: dict[str, list[float]] = {}
    for label, value in zip(own["label"].tolist(), own[name].tolist(), strict=True):
        kinds.setdefault(label, []).append(value)
    means = sorted(((float(np.mean(held)), label) for label, held in kinds.items()), reverse=True)
    here = ", ".join(f"{value:.3g} at {label!r}" for value, label in means[:SHOWN])
    others = own[f"{name}_others"].dropna()
    if not len(others):
        return f"{word} is {here}; there is no ordinary token to compare with."
    return f"{word} is {here}, and {others.median():.3g} at ordinary tokens (median)."


def _removed(found: Findings) -> str:
    births = found.births
    gone = births.loc[births["removed_by"].isin(["mlp", "attention", "experts", BETWEEN])]
    if not len(gone):
        return ""
    counts = Counter(gone["removed_by"].tolist())
    authors = ", ".join(f"{_AUTHORS[author]} {count}" for author, count in counts.most_common())
    layers = as_ranges(gone["removed_layer"].tolist())
    return f"Removed: {len(gone)} of {len(births)} values, in layer {layers} ({authors})."


def _tested(tests: pd.DataFrame, measured: Effects | None) -> list[str]:
    lines = []
    for condition in CONDITIONS:
        own = tests.loc[(tests["condition"] == condition) & (tests["clips"] > 0)]
        if not len(own):
            continue
        claims = "; ".join(_claim(row) for row in own.to_dict("records"))
        head = "Control" if all(own["control"].tolist()) else "Test"
        lines.append(f"{head}, {CONDITIONS[condition]}: {claims}.{_cost(condition, measured)}")
    return lines


def _claim(row: dict[Any, Any]) -> str:
    low, high = row["low"], row["high"]
    wide = np.isfinite(low) and low < high
    interval = f", 95 % interval {low:.0%} to {high:.0%}" if wide else ""
    return f"{row['claim']} in {row['yes']} of {row['clips']} samples{interval}"


def _cost(condition: str, measured: Effects | None) -> str:
    """What the condition did to loss and word errors."""
    if measured is None:
        return ""
    own = measured.summary.loc[measured.summary["condition"] == condition]
    rows = {row["metric"]: row for row in own.to_dict("records")}
    parts = [
        f"{name} {form.format(rows[metric]['before'])} to {form.format(rows[metric]['after'])}"
        for metric, name, form in _COSTS
        if metric in rows
    ]
    return f" {' and '.join(parts).capitalize()}." if parts else ""


def _doubt(found: Findings) -> str:
    count = len(found.record)
    few = f"This is told of {count} {'sample' if count == 1 else 'samples'} only. "
    return (
        f"{few * (count < FEW)}Intervals are bootstrap intervals over samples, left out where all "
        "samples agree; they say nothing of other seeds, data or prompts."
    )
