"""effects: what interventions changed, over clips, with bootstrap intervals.

Every clip is its own control: a change is the clip's number with the intervention minus that
without, and its interval is that of the mean change over clips. Depends on pandas only.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from sinkscope.analysis.bootstrap import bootstrap_interval, bootstrap_weights
from sinkscope.errors import InputError

__all__ = ["BEFORE", "METRICS", "effects"]

BEFORE = "before"
"""The condition without any intervention."""

METRICS: dict[str, str] = {
    "loss": "cross-entropy of the next token, nats",
    "wer": "word error rate",
    "kl": "divergence of the next token's distribution from that before, nats",
    "sink_rate": "share of all layers' heads with BOS as a sink",
    "largest_sink_rate": "share of a layer's heads with one token as a sink, the largest",
    "sinks": "attention sinks, tokens",
    "intermediate_sinks": "attention sinks that are not BOS, tokens",
    "largest_ratio": "largest activation, multiples of its layer's median",
    "massive": "massive activations, token and feature",
}
"""What is measured, and in which unit."""

DRAWS = 2000


def effects(measured: pd.DataFrame, *, draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """The mean effect of every condition on every metric.

    Args:
        measured: one row a condition and clip, as ``measure`` gives them: ``condition``,
            ``sample``, the metrics, and ``words`` and ``errors`` for the word error rate.
        draws: of the bootstrap over clips.
        seed: of the bootstrap.

    Returns:
        One row a condition and metric: ``condition``, ``metric``, ``before``, ``after``,
        ``change``, ``low`` and ``high`` (95 % interval of the change, NaN for one clip), and
        ``clips`` (how many had the number). A word error rate is that of all words together.

    Raises:
        InputError: if the table has no condition ``"before"``.
    """
    if BEFORE not in set(measured["condition"]):
        raise InputError(f"effects: the table has no condition {BEFORE!r} to compare with.")
    names = list(dict.fromkeys(measured["condition"]))
    rows = [row for name in names for row in _of_condition(measured, name, draws=draws, seed=seed)]
    columns = ["condition", "metric", "before", "after", "change", "low", "high", "clips"]
    table = pd.DataFrame(rows, columns=columns)
    table.attrs = {**measured.attrs, "table": "effects", "draws": draws, "seed": seed}
    return table


def _of_condition(
    measured: pd.DataFrame, name: str, *, draws: int, seed: int
) -> Iterator[dict[str, object]]:
    before = measured.loc[measured["condition"] == BEFORE].set_index("sample")
    after = measured.loc[measured["condition"] == name].set_index("sample")
    before = before.loc[after.index]
    for metric in METRICS:
        if metric == "wer":
            pair = _rates(before), _rates(after)
        else:
            pair = _means(before, metric), _means(after, metric)
        known = np.isfinite(pair[0]).all(0) & np.isfinite(pair[1]).all(0)
        if not known.any():
            continue
        first, then = (part[:, known] for part in pair)
        weights = bootstrap_weights(int(known.sum()), draws=draws, seed=seed)
        low, high = _interval(first, then, weights)
        old, new = _rate(first), _rate(then)
        yield {
            "condition": name,
            "metric": metric,
            "before": old,
            "after": new,
            "change": new - old,
            "low": low,
            "high": high,
            "clips": int(known.sum()),
        }


def _means(table: pd.DataFrame, metric: str) -> np.ndarray:
    """Numerator and denominator of a mean over clips."""
    values = table[metric].to_numpy(float)
    return np.stack([values, np.ones(len(values))])


def _rates(table: pd.DataFrame) -> np.ndarray:
    """Numerator and denominator of the word error rate."""
    words = table["words"].to_numpy(float)
    return np.stack([table["errors"].to_numpy(float), np.where(words > 0, words, np.nan)])


def _rate(part: np.ndarray) -> float:
    return float(part[0].sum() / part[1].sum())


def _interval(first: np.ndarray, then: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the change, clips drawn in pairs."""

    def change(drawn: np.ndarray) -> np.ndarray:
        rates = [(drawn @ part[0]) / (drawn @ part[1]) for part in (first, then)]
        return (rates[1] - rates[0])[:, None]

    _, (low,), (high,) = bootstrap_interval(change, weights)
    return float(low), float(high)
