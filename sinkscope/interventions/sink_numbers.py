"""A record of one sample in a row of numbers: its sinks and its massive activations."""

from typing import Any

import pandas as pd

from sinkscope.analysis.finding import find_sinks
from sinkscope.analysis.massive import find_massive_activations
from sinkscope.analysis.similarity import twins
from sinkscope.analysis.verdict import sink_attention
from sinkscope.analysis.visibility import even_attention
from sinkscope.errors import InputError
from sinkscope.record import Record

__all__ = ["THRESHOLDS", "features_of", "refuse_unknown", "sink_numbers"]

THRESHOLDS = ("threshold", "min_heads", "min_queries", "ratio", "cosine")
"""What may be chosen, as in ``find_sinks``."""


def sink_numbers(record: Record, **thresholds: Any) -> dict[str, Any]:
    """How strong the sinks and the massive activations of one sample are.

    Args:
        record: one sample.
        thresholds: of ``THRESHOLDS``.

    Returns:
        The columns of ``input_controls`` from ``tokens`` on, but ``jaccard``.
    """
    sinks = find_sinks(record, **thresholds)
    massive = find_massive_activations(record, ratio=thresholds.get("ratio"))
    said = {name: thresholds[name] for name in ("cosine", "threshold") if name in thresholds}
    layout = record.layouts[0]
    return {
        "tokens": len(layout),
        "bos_present": layout.has_bos,
        "reference": layout.labels[layout.reference],
        **_rates(record, thresholds),
        **_tokens(sinks),
        "largest_ratio": massive.attrs["largest_ratio"],
        "n_massive": len(massive.drop_duplicates(["token", "feature"])),
        "massive_features": features_of(massive),
        "n_twins": twins(record, **said)["token"].nunique(),
    }


def features_of(massive: pd.DataFrame) -> tuple[int, ...]:
    """The features of a table of massive activations, in order."""
    return tuple(sorted(set(massive["feature"].tolist())))


def refuse_unknown(thresholds: dict[str, Any]) -> None:
    """Refuse a threshold of another name.

    Raises:
        InputError: naming those that there are.
    """
    for name in thresholds:
        if name not in THRESHOLDS:
            raise InputError(f"There is no threshold {name!r}; use {', '.join(THRESHOLDS)}.")


def _rates(record: Record, thresholds: dict[str, Any]) -> dict[str, float]:
    """Sink rates of the reference token, and of the others that enough queries see."""
    names = ("threshold", "min_heads", "min_queries")
    chosen = {name: thresholds[name] for name in names if name in thresholds}
    found = sink_attention(record, **chosen)
    rate, place = found.rate.isel(sample=0), record.layouts[0].reference
    judged = found.judged.isel(sample=0).values.copy()
    own = rate.isel(token=place).where(judged[:, place], 0.0)  # seen by few, as where it is hidden
    judged[:, place] = False
    others = rate.values[judged]
    return {
        "sink_rate": float(own.mean()),
        "largest_sink_rate": float(own.max()),
        "sink_rate_elsewhere": float(others.max()) if len(others) else float("nan"),
        "even_alpha": float(even_attention(record).isel(sample=0, key=place).mean()),
    }


def _tokens(sinks: pd.DataFrame) -> dict[str, Any]:
    """The tokens that are sinks in some layer, the most attended first."""
    tokens = sinks.sort_values("alpha", ascending=False).drop_duplicates("token")
    others = tokens.loc[tokens["kind"] == "intermediate"]
    return {
        "n_sinks": len(tokens),
        "n_intermediate": len(others),
        "intermediate": tuple(others["label"].tolist()),
    }
