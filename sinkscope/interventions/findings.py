"""find_origins: sinks, massive activations and where they come from, in two forwards a clip."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from sinkscope.analysis.finding import find_sinks
from sinkscope.analysis.massive import find_massive_activations
from sinkscope.analysis.origin import Origin, trace_origin
from sinkscope.analysis.thresholds import Thresholds
from sinkscope.errors import InputError
from sinkscope.interventions.samples import Sample, samples_of
from sinkscope.probes.trace import trace
from sinkscope.record import Record, merge
from sinkscope.subjects.subject import Subject, load

__all__ = ["Findings", "find_origins"]

FEATURES = 3
"""Features that are traced where no activation is massive."""

MOST_TOKENS = 0.5
"""Share of all tokens above which a massive feature is an outlier of every token."""

FEW_TOKENS = 8
"""Tokens at which a feature may be massive in any case, however short the texts are."""


@dataclass(frozen=True, eq=False)
class Findings:
    """What was found in a subject on some data.

    Attributes:
        subject: the subject.
        data: what it was run on.
        rules: when a token is a sink and an activation massive.
        record: the default record.
        sinks: what ``find_sinks`` found.
        massive: what ``find_massive_activations`` found, without the outliers.
        outliers: features that are massive at more than half of all tokens: large everywhere, so
            tied to no sink, and left out.
        trace: the second forward at their tokens; None where nothing was found.
        origin: what ``trace_origin`` found in it.
        features: the traced features.
    """

    subject: Subject
    data: list[Sample]
    rules: Thresholds
    record: Record
    sinks: pd.DataFrame
    massive: pd.DataFrame
    outliers: tuple[int, ...]
    trace: Record | None
    origin: Origin | None
    features: tuple[int, ...]

    @property
    def tokens(self) -> list[set[int]]:
        """The tokens of each sample that are sinks or hold massive activations."""
        return [
            {
                int(token)
                for table in (self.sinks, self.massive)
                for token in table.loc[table["sample"] == sample, "token"]
            }
            for sample in range(len(self.record))
        ]

    @property
    def births(self) -> pd.DataFrame:
        """Births of massive activations; of the traced features of sinks where none is massive."""
        if self.origin is None:
            return pd.DataFrame()
        births = self.origin.births
        massive = births.loc[births["criterion"] == "massive"]
        chosen = massive if len(massive) else births
        chosen.attrs = {**births.attrs, "samples": len(self.record)}
        return chosen

    def neurons_in(self, layer: int) -> int:
        """How many neurons the MLP of a layer has; 0 where they could not be read."""
        if self.trace is None or "down_weight" not in self.trace:
            return 0
        weight = self.trace["down_weight"]
        return int(weight.sizes["neuron"]) if layer in weight["layer"].values else 0


def find_origins(
    subject: Any,
    data: Any = None,
    *,
    input_ids: Tensor | Sequence[Any] | None = None,
    rules: Thresholds | None = None,
    seen: Record | None = None,
) -> Findings:
    """Find sinks and massive activations, then trace them in a second forward.

    Where there are sinks but nothing massive, the largest features of the sinks are traced.

    Args:
        subject: a `Subject`, or anything that ``load`` takes.
        data: a clip or several, a text or several.
        input_ids: token ids ``(sample, token)`` instead, or rows of unequal length.
        rules: when a token is a sink and an activation massive.
        seen: the default record of this data, where there is one already.

    Raises:
        InputError: there is no data, or the record is of other data.
    """
    subject = load(subject)
    several = samples_of(data, input_ids=input_ids)
    rules = rules or Thresholds()
    seen = seen or merge([one.record(subject) for one in several])
    if len(seen) != len(several):
        raise InputError(f"The record has {len(seen)} samples, the data {len(several)}.")
    sinks = find_sinks(seen, **rules.of_sinks)
    massive, outliers = _without_outliers(find_massive_activations(seen, **rules.of_massive))
    features = tuple(sorted({int(f) for f in massive["feature"]})) or _largest(seen, sinks)
    traced = origin = None
    if features:
        traced = _trace(subject, several, [massive, sinks], features)
        origin = trace_origin(traced, ratio=rules.ratio)
    return Findings(
        subject, several, rules, seen, sinks, massive, outliers, traced, origin, features
    )


def _without_outliers(massive: pd.DataFrame) -> tuple[pd.DataFrame, tuple[int, ...]]:
    """The rows of features that stand out at few tokens, and the other features."""
    tokens = massive.drop_duplicates(["sample", "token", "feature"])["feature"].tolist()
    most = max(MOST_TOKENS * sum(massive.attrs["tokens"]), FEW_TOKENS)
    outliers = tuple(sorted({f for f in tokens if tokens.count(f) > most}))
    return massive.loc[~massive["feature"].isin(outliers)], outliers


def _trace(
    subject: Subject,
    samples: Sequence[Sample],
    tables: Sequence[pd.DataFrame],
    features: Sequence[int],
) -> Record:
    """Each sample traced at its own tokens."""
    traces = []
    for number, one in enumerate(samples):
        own = [table.loc[table["sample"] == number].assign(sample=0) for table in tables]
        traces.append(trace(subject, one.data, at=own, features=features, **one.given))
    return merge(traces)


def _largest(seen: Record, sinks: pd.DataFrame) -> tuple[int, ...]:
    """The features that are most often the largest of the sinks' states."""
    held = seen["top_feature"].transpose("sample", "layer", "token", "rank")
    layers = [int(layer) for layer in held["layer"].values]
    cells = zip(*(sinks[name].tolist() for name in ("sample", "layer", "token")), strict=True)
    found = [held.values[s, layers.index(layer), t, :FEATURES] for s, layer, t in cells]
    if not found:
        return ()
    features, counts = np.unique(np.concatenate(found), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:FEATURES]
    return tuple(sorted(int(feature) for feature in features[order]))
