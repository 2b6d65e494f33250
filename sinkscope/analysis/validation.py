"""Do found features mark the attention sinks? Precision and recall over clips. Depends on record.

A feature that is massive on every token, or on tokens that nothing attends to, is no sign of a
sink; a sink without the features has another cause. Both are counted here.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from sinkscope.analysis.bootstrap import bootstrap_interval, bootstrap_weights
from sinkscope.analysis.criteria import massive_ratio
from sinkscope.analysis.tables import layers_of, make_table, references
from sinkscope.analysis.verdict import sink_attention
from sinkscope.errors import InputError
from sinkscope.glossary import paper_layer
from sinkscope.record import Record

__all__ = ["validate_features"]

_AXES = ("sample", "layer", "token", "rank")
_SCORES = ("precision", "recall", "f1", "jaccard")


def validate_features(
    record: Record,
    *,
    features: Iterable[int] | None = None,
    need: str = "all",
    with_reference: bool = True,
    ratio: float | int | None = None,
    threshold: float | int = 0.3,
    min_heads: float | int = 0.5,
    min_queries: int = 8,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """How well "has these features" tells which tokens are attention sinks, layer by layer.

    A token has the features in a layer if they are massive in the state that *enters* the layer,
    because that is what its attention reads; the first recorded layer has no such state and is
    left out. Only tokens that enough queries see are judged, as in ``find_sinks``.

    Args:
        record: clips of one model, joined with ``merge``; two or more for intervals.
        features: the feature indices. None takes, in each layer, those that are massive at the
            reference token (BOS) in at least half of the clips, or, where it has none, those that
            are massive at the largest number of other tokens. They are chosen without looking at
            attention, but on the same clips.
        need: "all" of them must be massive at a token, or "any".
        with_reference: False leaves the reference token out. It is a sink with massive features
            almost everywhere, so that it alone gives a good score.
        ratio: |x| from this multiple of the layer's median on is massive; None takes the subject's
            own, else 1000.
        threshold: key attention of a sink (``find_sinks``).
        min_heads: share of heads of a sink.
        min_queries: queries that must see a token.
        draws: number of bootstrap draws of clips.
        seed: of the draws.

    Returns:
        One row a layer, and a last one over all layers (``layer`` missing): ``layer paper_layer``,
        ``features`` (those asked for in that layer), ``judged sinks flagged`` (tokens, over all
        clips), ``tp fp fn``, then ``precision recall f1 jaccard``, each with ``_low`` and
        ``_high``, a 95 % percentile interval over clips (NaN where a number is undefined, or with
        one clip); ``truncated``: judged tokens of which the record holds too few features to tell,
        counted as without.

    Raises:
        InputError: if a threshold is outside its range, no state that enters a layer was recorded,
            or more features are asked for than the record holds for a token.
        SiteError: if the record holds no attention statistics or no largest features.
    """
    found = sink_attention(
        record, threshold=threshold, min_heads=min_heads, min_queries=min_queries
    )
    used, source = massive_ratio(record, ratio)
    layers = _with_entering_state(layers_of(found.alpha), layers_of(record["top_value"]))
    held, massive = _entering(record, used, layers)
    judged = found.judged.sel(layer=layers).values.copy()
    if not with_reference:
        judged[np.arange(len(record)), :, references(record)] = False
    sets = _sets(record, held, massive, features)
    has, cut = _has(sets, held, massive, need)
    counts = _counts(found.is_sink.sel(layer=layers).values, has, cut, judged)
    table = _table(counts, layers, sets, bootstrap_weights(len(record), draws=draws, seed=seed))
    attrs = {
        "table": "feature_validation",
        "features_given": features is not None,
        "need": need,
        "with_reference": with_reference,
        "threshold": threshold,
        "min_heads": min_heads,
        "min_queries": min_queries,
        "ratio_threshold": used,
        "ratio_source": source,
        "draws": draws,
        "seed": seed,
        "left_out": sorted(set(layers_of(found.alpha)) - set(layers)),
    }
    return make_table(table, record, attrs)


def _with_entering_state(layers: list[int], states: list[int]) -> list[int]:
    """The layers whose entering state is held: the state that leaves the one before."""
    kept = [layer for layer in layers if layer - 1 in states]
    if not kept:
        raise InputError(
            f"validate_features: no layer of {layers} has the one before it among the recorded "
            "states, so none that enters a layer is known; record neighbouring layers."
        )
    return kept


def _entering(
    record: Record, ratio: float, layers: list[int]
) -> tuple[Int[np.ndarray, "sample layer token rank"], Bool[np.ndarray, "sample layer token rank"]]:
    """The held features of the states that enter the layers, and which of them are massive."""
    before = [layer - 1 for layer in layers]
    value = record["top_value"].sel(layer=before).transpose(*_AXES).values.astype(np.float64)
    held = record["top_feature"].sel(layer=before).transpose(*_AXES).values.astype(np.int64)
    median = record["median"].sel(layer=before).transpose("sample", "layer").values
    limit = ratio * median.astype(np.float64)[:, :, None, None]
    return held, np.nan_to_num(np.abs(value)) >= limit


def _sets(
    record: Record,
    held: Int[np.ndarray, "sample layer token rank"],
    massive: Bool[np.ndarray, "sample layer token rank"],
    features: Iterable[int] | None,
) -> list[tuple[int, ...]]:
    """The features to look for in each layer."""
    if features is not None:
        given = tuple(sorted(set(features)))
        if not 1 <= len(given) <= held.shape[-1]:
            raise InputError(
                f"validate_features: {len(given)} features were given; the record holds the "
                f"{held.shape[-1]} largest of each token, so give 1 to {held.shape[-1]}."
            )
        return [given] * held.shape[1]
    rows, places = np.arange(len(record)), references(record)
    return [
        _often(held[rows, i, places], massive[rows, i, places], at_least=len(record) / 2)
        or _most_shared(held[:, i], massive[:, i])
        for i in range(held.shape[1])
    ]


def _often(held: np.ndarray, massive: np.ndarray, *, at_least: float) -> tuple[int, ...]:
    """The features that are massive at no fewer than ``at_least`` tokens."""
    features, tokens = np.unique(held[massive], return_counts=True)
    return tuple(int(f) for f in features[tokens >= at_least])


def _most_shared(held: np.ndarray, massive: np.ndarray) -> tuple[int, ...]:
    features, tokens = np.unique(held[massive], return_counts=True)
    return tuple(int(f) for f in features[tokens == tokens.max(initial=0)])


def _has(
    sets: list[tuple[int, ...]],
    held: Int[np.ndarray, "sample layer token rank"],
    massive: Bool[np.ndarray, "sample layer token rank"],
    need: str,
) -> tuple[Bool[np.ndarray, "sample layer token"], Bool[np.ndarray, "sample layer token"]]:
    """Which tokens have the features of their layer; of which it cannot be told."""
    if need not in ("all", "any"):
        raise InputError(f"validate_features: need is {need!r}; choose 'all' or 'any'.")
    has = np.zeros(held.shape[:-1], bool)
    for i, wanted in enumerate(sets):
        each = [((held[:, i] == f) & massive[:, i]).any(-1) for f in wanted]
        if each:
            has[:, i] = np.all(each, axis=0) if need == "all" else np.any(each, axis=0)
    return has, massive.all(-1) & ~has


def _counts(
    sink: Bool[np.ndarray, "sample layer token"],
    has: Bool[np.ndarray, "sample layer token"],
    cut: Bool[np.ndarray, "sample layer token"],
    judged: Bool[np.ndarray, "sample layer token"],
) -> dict[str, Int[np.ndarray, "sample layer"]]:
    """Numbers of judged tokens, of each clip and layer."""
    cells = {
        "judged": judged,
        "sinks": sink,
        "flagged": has,
        "tp": sink & has,
        "fp": has & ~sink,
        "fn": sink & ~has,
        "truncated": cut,
    }
    return {name: (cell & judged).sum(-1) for name, cell in cells.items()}


def _table(
    counts: dict[str, Int[np.ndarray, "sample layer"]],
    layers: list[int],
    sets: list[tuple[int, ...]],
    weights: Int[np.ndarray, "draw sample"],
) -> pd.DataFrame:
    """One row a layer, and one over all."""
    numbers = pd.Series([*layers, None], dtype="Int64")
    union = tuple(sorted({f for wanted in sets for f in wanted}))
    columns: dict[str, Any] = {"layer": numbers, "paper_layer": numbers + paper_layer(0)}
    columns["features"] = pd.Series([*sets, union], dtype=object)
    whole = {name: np.append(n, n.sum(1, keepdims=True), axis=1) for name, n in counts.items()}
    columns |= {name: n.sum(0) for name, n in whole.items() if name != "truncated"}
    for i, name in enumerate(_SCORES):
        point, low, high = bootstrap_interval(
            lambda w, i=i: _scores(*(w @ whole[n] for n in ("tp", "fp", "fn")))[i], weights
        )
        columns |= {name: point, f"{name}_low": low, f"{name}_high": high}
    return pd.DataFrame(columns | {"truncated": whole["truncated"].sum(0)})


def _scores(
    tp: Float[np.ndarray, "*number"],
    fp: Float[np.ndarray, "*number"],
    fn: Float[np.ndarray, "*number"],
) -> tuple[Float[np.ndarray, "*number"], ...]:
    """Precision, recall, F1 and Jaccard; NaN where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return tp / (tp + fp), tp / (tp + fn), 2 * tp / (2 * tp + fp + fn), tp / (tp + fp + fn)
