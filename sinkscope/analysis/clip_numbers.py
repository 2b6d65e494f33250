"""Every clip of a record in a row of numbers, and how they move from one model to another."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from sinkscope.analysis.bootstrap import bootstrap_interval
from sinkscope.analysis.criteria import bos_cosine, ratio_to_median
from sinkscope.analysis.paired import CHANGE, paired_change
from sinkscope.analysis.tables import is_token, references
from sinkscope.analysis.verdict import SinkAttention
from sinkscope.glossary import BOS
from sinkscope.record import Record

__all__ = ["METRICS", "clip_numbers", "loss_layers", "number_changes"]

METRICS: dict[str, str] = {
    "bos_sink_rate": "largest sink rate of BOS over layers, 0 to 1",
    "bos_alpha": "largest key attention of BOS over layers, mean over heads",
    "other_sink_rate": "largest sink rate of another token over layers, 0 to 1",
    "other_alpha": "largest key attention of another token over layers, mean over heads",
    "intermediate_sinks": "tokens other than BOS that are a sink in some layer, a clip",
    "twins": "tokens that are a twin of BOS in some layer, a clip",
    "massive": "massive activations, token and feature, a clip",
    "largest_ratio": "largest activation, multiples of its layer's median",
    "mean_cos2": "mean cos² to BOS in the layers of the decorrelation loss, all but the last",
    "wer": "word error rate",
}
"""What is measured of every clip, in the order of the table; ``wer`` where it is given."""


def clip_numbers(
    record: Record, found: SinkAttention, massive: pd.DataFrame, *, cosine: float | int
) -> pd.DataFrame:
    """The metrics of every clip: one row a clip, one column a metric of ``METRICS`` but ``wer``.

    NaN where a clip does not have the number: of BOS where there is none or too few queries see
    it, of another token where none is seen by enough.

    Args:
        record: one or several samples.
        found: the verdicts on its tokens.
        massive: what ``find_massive_activations`` returned.
        cosine: above it a token is a twin of BOS.
    """
    length = found.alpha.sizes["token"]
    is_bos = np.zeros((len(record), length), bool)
    for row, layout in zip(is_bos, record.layouts, strict=True):
        row[: len(layout)] = layout.mask(BOS)
    own, judged = is_bos[:, None, :], found.judged.values
    columns: dict[str, Any] = {}
    for name, values in (("sink_rate", found.rate), ("alpha", found.alpha)):
        columns[f"bos_{name}"] = _largest(values.values, judged & own)
        columns[f"other_{name}"] = _largest(values.values, judged & ~own)
    columns["intermediate_sinks"] = (found.is_sink.values & ~own).any(1).sum(-1)
    cosines = bos_cosine(record).values.astype(np.float64)
    others = is_token(record) & (references(record)[:, None] != np.arange(length))
    above = np.nan_to_num(cosines, nan=-1.0) > cosine
    columns["twins"] = (above & others[:, None, :]).any(1).sum(-1)
    cells = massive.drop_duplicates(["sample", "token", "feature"])["sample"].to_numpy(np.int64)
    columns["massive"] = np.bincount(cells, minlength=len(record))
    ratios = ratio_to_median(record).values
    columns["largest_ratio"] = np.where(np.isfinite(ratios), ratios, 0.0).max((1, 2))
    columns["mean_cos2"] = _mean_cos2(record, cosines, others)
    table = pd.DataFrame({name: columns[name] for name in METRICS if name in columns})
    return table.astype(np.float64)


def loss_layers(record: Record) -> list[int]:
    """The recorded layers that the decorrelation loss sees: all blocks' outputs but the last."""
    last = record.provenance.get("n_layers") or max(record.layers, default=-1) + 1
    return [layer for layer in record.layers if layer < last - 1]


def number_changes(
    before: pd.DataFrame,
    after: pd.DataFrame,
    wer: pd.DataFrame | None,
    weights: Int[np.ndarray, "draw sample"],
) -> pd.DataFrame:
    """How far every metric moves, over clips: one row a metric.

    Args:
        before: what ``clip_numbers`` returned.
        after: the same of the other model.
        wer: one row a clip, with ``words errors_before errors_after``; NaN where unknown.
        weights: what ``bootstrap_weights`` gave.

    Returns:
        ``metric``, the columns of ``paired_change``, and ``meaning``. A word error rate is that of
        all words together; its effect size is that of the clips' own rates. A metric that no clip
        has gives no row.
    """
    table = paired_change(before.to_numpy(), after.to_numpy(), weights)
    table.insert(0, "metric", list(before))
    if wer is not None:
        table.loc[len(table)] = {"metric": "wer", **_wer_change(wer, weights)}
    table["meaning"] = [METRICS[name] for name in table["metric"]]
    table = table.loc[table["clips"] > 0].reset_index(drop=True)
    return table.astype({"clips": np.int64})


def _largest(
    values: Float[np.ndarray, "sample layer token"], chosen: np.ndarray
) -> Float[np.ndarray, " sample"]:
    """The largest of the chosen cells of each clip; NaN where none is chosen."""
    largest = np.where(chosen, values, -np.inf).max((1, 2), initial=-np.inf)
    return np.where(np.isfinite(largest), largest, np.nan)


def _mean_cos2(
    record: Record, cosines: Float[np.ndarray, "sample layer token"], others: np.ndarray
) -> Float[np.ndarray, " sample"]:
    """Mean over the loss's layers of the mean cos² over its tokens: those of the input."""
    tokens = others.copy()
    for row, layout in zip(tokens, record.layouts, strict=True):
        row[: len(layout)] &= ~layout.mask("response")
    places = [record.layers.index(layer) for layer in loss_layers(record)]
    counts = tokens.sum(-1) * len(places)
    sums = (np.where(tokens[:, None, :], cosines[:, places], 0.0) ** 2).sum((1, 2))
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def _wer_change(wer: pd.DataFrame, weights: np.ndarray) -> dict[str, float]:
    """The row of the word error rate, the columns of ``CHANGE``."""
    names = ["words", "errors_before", "errors_after"]
    counts = wer[names].to_numpy(np.float64)
    known = np.isfinite(counts).all(-1) & (counts[:, 0] > 0)
    words, first, then = np.where(known[:, None], counts, 0.0).T

    def rates(drawn: np.ndarray) -> np.ndarray:
        said = drawn @ words
        empty = np.full((3, len(said)), np.nan)
        errors = np.stack([drawn @ part for part in (first, then, then - first)])
        return np.divide(errors, said, out=empty, where=said > 0).T

    point, low, high = bootstrap_interval(rates, weights)
    each = np.where(known, counts.T, np.nan)
    own = paired_change((each[1] / each[0])[:, None], (each[2] / each[0])[:, None], weights)
    alone = known.sum() < 2
    ends = (np.nan, np.nan) if alone else (low[2], high[2])
    values = (*point, *ends, float(own["effect_size"].iloc[0]), int(known.sum()))
    return dict(zip(CHANGE, values, strict=True))
