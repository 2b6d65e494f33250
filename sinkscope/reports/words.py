"""What a run found, in words: four answers at a glance, and the sentences behind them."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from sinkscope.analysis.tables import as_ranges
from sinkscope.analysis.thresholds import Thresholds
from sinkscope.analysis.verdict import sink_attention
from sinkscope.analysis.words import describe
from sinkscope.record import Record
from sinkscope.reports.tables import run_tables

__all__ = ["Answer", "answers", "findings", "sentences"]

NAMED = 3


@dataclass(frozen=True)
class Answer:
    """One of the questions that a reader has, and its answer.

    Attributes:
        question: for example "Is BOS a sink?".
        answer: a few words.
        detail: the numbers behind it.
        found: whether there is something to see.
    """

    question: str
    answer: str
    detail: str
    found: bool


def findings(record: Record, thresholds: Thresholds | None = None) -> list[str]:
    """The sentences that a report begins with.

    Args:
        record: one or several samples.
        thresholds: what counts as a sink and as massive; the defaults if left out.
    """
    return sentences(run_tables(record, thresholds or Thresholds()))


def sentences(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """The findings of the tables of a run, with the thresholds that were used."""
    told = ("sink_summary", "massive_activations", "massive_features", "twins")
    found = [describe(tables[name]) for name in told if name in tables]
    if "low_meaning" in tables and len(tables["sinks"]):
        found.append(f"Do sinks mean little? {describe(tables['low_meaning'])}")
    return found


def answers(
    record: Record, tables: Mapping[str, pd.DataFrame], thresholds: Thresholds
) -> list[Answer]:
    """Is BOS a sink, are there others, are there massive activations, are there twins of BOS."""
    return [
        _bos(record, tables["sink_summary"], thresholds),
        _intermediate(tables["sink_summary"]),
        _massive(tables["massive_activations"]),
        _twins(tables["twins"]),
    ]


def _bos(record: Record, summary: pd.DataFrame, thresholds: Thresholds) -> Answer:
    question = "Is BOS a sink?"
    has_bos = [layout.has_bos for layout in record.layouts]
    if not any(has_bos):
        return Answer(question, "There is no BOS", "the input was recorded without one", False)
    own = summary.loc[summary["kind"] == "bos"]
    if own.empty:
        return Answer(question, "No", _nearest_bos(record, thresholds), False)
    layers = as_ranges({int(layer) for text in own["layers"] for layer in _numbers(text)})
    where = f"in {len(own)} of {sum(has_bos)} samples, " if sum(has_bos) > 1 else ""
    detail = (
        f"{where}{_layers(layers)}; key attention up to {own['alpha'].max():.2f}, "
        f"sink rate up to {own['sink_rate'].max():.0%}"
    )
    return Answer(question, "Yes", detail, True)


def _nearest_bos(record: Record, thresholds: Thresholds) -> str:
    """How much attention BOS draws where it draws most."""
    found = sink_attention(
        record,
        threshold=thresholds.threshold,
        min_heads=thresholds.min_heads,
        min_queries=thresholds.min_queries,
    )
    best = []
    for sample, layout in enumerate(record.layouts):
        if layout.has_bos:
            alpha = found.alpha.isel(sample=sample, token=layout.reference)
            rate = found.rate.isel(sample=sample, token=layout.reference)
            best.append((float(alpha.max()), float(rate.max())))
    alpha, rate = (max(values) for values in zip(*best, strict=True))
    return (
        f"its key attention reaches {alpha:.2f} over the head mean (threshold "
        f"{thresholds.threshold:g}), its sink rate {rate:.0%} (threshold "
        f"{thresholds.min_heads:.0%})"
    )


def _intermediate(summary: pd.DataFrame) -> Answer:
    question = "Are other tokens sinks?"
    own = summary.loc[summary["kind"] == "intermediate"]
    if own.empty:
        return Answer(question, "None found", "no token but BOS passes the thresholds", False)
    own = own.sort_values("alpha", ascending=False)
    named = [
        f"{label} (token {token}, {_layers(layers)}, α {alpha:.2f})"
        for label, token, layers, alpha in zip(
            own["label"][:NAMED], own["token"], own["layers"], own["alpha"], strict=False
        )
    ]
    more = f" and {len(own) - NAMED} more" if len(own) > NAMED else ""
    return Answer(question, _count(len(own), "token"), "; ".join(named) + more, True)


def _massive(massive: pd.DataFrame) -> Answer:
    question = "Massive activations?"
    said = massive.attrs
    rule = f"{said['ratio_threshold']:g} × the layer's median, {said['ratio_source']}"
    if massive.empty:
        return Answer(
            question,
            "None found",
            f"the largest |x| is {said['largest_ratio']:.0f} × the median; massive is {rule}",
            False,
        )
    features = sorted(set(massive["feature"].tolist()))
    tokens = len(set(zip(massive["sample"], massive["token"], strict=True)))
    shown = ", ".join(map(str, features[:6])) + (" …" if len(features) > 6 else "")
    detail = (
        f"{'features' if len(features) > 1 else 'feature'} {shown}; "
        f"{_layers(as_ranges(massive['layer'].tolist()))}; up to "
        f"{massive['ratio'].max():.0f} × the median (massive: {rule})"
    )
    answer = f"{_count(len(features), 'feature')} on {_count(tokens, 'token')}"
    return Answer(question, answer, detail, True)


def _twins(table: pd.DataFrame) -> Answer:
    question = "Twins of BOS?"
    limit = f"cosine > {table.attrs['cosine']:g}"
    if table.empty:
        largest = table.attrs["largest_cosine"]
        return Answer(question, "None found", f"largest cosine {largest:.2f} ({limit})", False)
    tokens = {(int(s), int(t)) for s, t in zip(table["sample"], table["token"], strict=True)}
    is_sink = table["is_sink"].fillna(False).astype(bool)
    own = table.loc[is_sink]
    sinks = {(int(s), int(t)) for s, t in zip(own["sample"], own["token"], strict=True)}
    detail = (
        f"{limit} in {_layers(as_ranges(table['layer'].tolist()))}; "
        f"{len(sinks) or 'none'} of them draw{'s' if len(sinks) == 1 else ''} enough attention "
        "to be a sink in such a layer"
    )
    return Answer(question, _count(len(tokens), "token"), detail, True)


def _numbers(ranges: str) -> list[int]:
    """The numbers that ``as_ranges`` wrote."""
    numbers: list[int] = []
    for part in ranges.split(", "):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def _layers(ranges: str) -> str:
    return f"layer{'s' if set(ranges) & set('-,') else ''} {ranges}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
