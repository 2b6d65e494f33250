"""Is the set of massive features the same in every clip and layer? Depends on record.

BOS at position 0 sees no other token, so its own massive features cannot differ between clips; for
the stability of what other tokens have, filter the table of massive activations first.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from sinkscope.analysis.bootstrap import bootstrap_interval, bootstrap_weights
from sinkscope.analysis.massive import find_massive_activations
from sinkscope.analysis.tables import as_ranges
from sinkscope.errors import InputError
from sinkscope.glossary import paper_layer
from sinkscope.record import Record

__all__ = ["as_massive", "feature_stability"]

_CELL = ("sample", "layer", "feature", "magnitude")


def feature_stability(
    massive: Record | pd.DataFrame,
    *,
    by: str = "layer",
    draws: int = 2000,
    seed: int = 0,
    **thresholds: Any,
) -> pd.DataFrame:
    """How far the set of massive features is one set, between clips or between layers.

    The set of a clip in a layer is the features that are massive at any of its tokens. Two sets
    are compared by their Jaccard index; two empty sets are not compared, an empty one and another
    give 0.

    Args:
        massive: what ``find_massive_activations`` returned, whole or filtered (to one segment,
            say), or a record. Several clips: see ``merge``.
        by: "layer": one row a layer, which compares the clips there; "sample": one row a clip,
            which compares the layers in which it has any; "feature": one row a layer and feature,
            and for each feature a last one over all layers (``layer`` missing).
        draws: number of bootstrap draws of clips.
        seed: of the draws.
        **thresholds: for a record, the parameters of ``find_massive_activations``.

    Returns:
        By layer: ``layer paper_layer``, ``clips`` (that have any), ``shared`` (features of all
        those), ``union``, ``jaccard`` (mean over pairs of clips), ``jaccard_low jaccard_high``.
        By sample: ``sample``, ``layers`` (that have any, as a text), ``n_layers``, ``shared``,
        ``union``, ``jaccard`` (mean over pairs of layers), ``jaccard_neighbours`` (over layers that
        follow one another). By feature: ``layer paper_layer feature``, ``clips`` (in which it is
        massive), ``share`` (of all clips), ``share_low share_high``, ``magnitude`` (mean over those
        clips of the largest). Intervals are 95 % percentile intervals over clips.

    Raises:
        InputError: if the table is not one of ``find_massive_activations``, or ``by`` is unknown.
    """
    ways = {"layer": _by_layer, "sample": _by_sample, "feature": _by_feature}
    if by not in ways:
        raise InputError(f"feature_stability: by is {by!r}; choose {', '.join(ways)}.")
    massive = as_massive(massive, "feature_stability", thresholds)
    weights = bootstrap_weights(massive.attrs["samples"], draws=draws, seed=seed)
    table = ways[by](massive, weights)
    more = {"table": "feature_stability", "by": by, "draws": draws, "seed": seed}
    table.attrs = {**massive.attrs, **more}
    return table


def as_massive(
    massive: Record | pd.DataFrame, caller: str, thresholds: dict[str, Any]
) -> pd.DataFrame:
    """The table of massive activations, from a record or checked.

    Raises:
        InputError: if it is another table, or thresholds are given with a finished one.
    """
    if isinstance(massive, Record):
        return find_massive_activations(massive, **thresholds)
    if thresholds:
        raise InputError(
            f"{caller}: {', '.join(thresholds)} cannot be applied to a finished table; give them "
            "to find_massive_activations."
        )
    if massive.attrs.get("table") != "massive_activations":
        raise InputError(
            f"{caller}: a table of {massive.attrs.get('table')!r} is not one of "
            "find_massive_activations; give its result or a Record."
        )
    return massive


def _by_layer(massive: pd.DataFrame, weights: np.ndarray) -> pd.DataFrame:
    layers = massive.attrs["recorded_layers"]
    held = _membership(massive, "layer", layers, "sample", range(weights.shape[1]))
    columns = ["layer", "paper_layer", "clips", "shared", "union"]
    rows = []
    for layer, (sets, features) in zip(layers, held, strict=True):
        (mean,), (low,), (high,) = bootstrap_interval(_mean_over_pairs(sets), weights)
        row = {"layer": layer, "paper_layer": paper_layer(layer), "clips": int(sets.any(-1).sum())}
        rows.append(row | _shared(sets, features) | _interval("jaccard", mean, low, high))
    return pd.DataFrame(rows, columns=[*columns, *_interval("jaccard")])


def _by_sample(massive: pd.DataFrame, weights: np.ndarray) -> pd.DataFrame:
    layers = np.array(massive.attrs["recorded_layers"])
    rows = []
    held = _membership(massive, "sample", range(weights.shape[1]), "layer", layers.tolist())
    for sample, (sets, features) in enumerate(held):
        some = sets.any(-1)
        own, sets = layers[some], sets[some]
        near = [_jaccard(sets[i : i + 2])[0, 1] for i in np.flatnonzero(np.diff(own) == 1)]
        row = {"sample": sample, "layers": as_ranges(own.tolist()), "n_layers": len(own)}
        row |= _shared(sets, features)
        row["jaccard"] = float(_mean_over_pairs(sets)(np.ones((1, len(sets))))[0, 0])
        rows.append(row | {"jaccard_neighbours": float(np.mean(near)) if near else np.nan})
    return pd.DataFrame(rows)


def _by_feature(massive: pd.DataFrame, weights: np.ndarray) -> pd.DataFrame:
    clips = weights.shape[1]
    largest: dict[tuple[int | None, int], np.ndarray] = {}
    for sample, layer, feature, magnitude in massive[list(_CELL)].itertuples(index=False):
        for key in ((layer, feature), (None, feature)):
            of_clips = largest.setdefault(key, np.zeros(clips))
            of_clips[sample] = max(of_clips[sample], magnitude)
    rows = []
    for (layer, feature), magnitudes in largest.items():
        has = magnitudes > 0
        share = bootstrap_interval(lambda w, has=has: (w @ has / clips)[:, None], weights)
        row = {"layer": layer, "feature": feature, "clips": int(has.sum())}
        row |= _interval("share", *(number[0] for number in share))
        rows.append(row | {"magnitude": magnitudes[has].mean()})
    names = ["layer", "feature", "clips", *_interval("share"), "magnitude"]
    table = pd.DataFrame(rows, columns=names).astype({"layer": "Int64", "feature": "int64"})
    table.insert(1, "paper_layer", table["layer"] + paper_layer(0))
    return table.sort_values(["layer", "feature"], na_position="last", ignore_index=True)


def _membership(
    massive: pd.DataFrame, outer: str, outers: Sequence[int], inner: str, inners: Sequence[int]
) -> list[tuple[Bool[np.ndarray, "_ feature"], list[int]]]:
    """For every value of ``outer``: which of its features each value of ``inner`` has."""
    held = []
    for value in outers:
        rows = massive.loc[massive[outer] == value]
        features = sorted(set(rows["feature"].tolist()))
        sets = np.zeros((len(inners), len(features)), bool)
        places = {number: i for i, number in enumerate(inners)}
        for number, feature in zip(rows[inner], rows["feature"], strict=True):
            sets[places[number], features.index(feature)] = True
        held.append((sets, features))
    return held


def _jaccard(sets: Bool[np.ndarray, "s feature"]) -> Float[np.ndarray, "s s"]:
    """Jaccard index of every pair of sets; NaN for two empty ones."""
    both = sets.astype(np.float64) @ sets.T
    sizes = sets.sum(-1)
    either = sizes[:, None] + sizes[None, :] - both
    return np.divide(both, either, out=np.full_like(both, np.nan), where=either > 0)


def _mean_over_pairs(sets: Bool[np.ndarray, "s feature"]) -> Any:
    """Mean Jaccard over pairs of different members, by the weights of the members.

    A member that was drawn twice is not compared with itself.
    """
    index = _jaccard(sets)
    np.fill_diagonal(index, np.nan)
    told = ~np.isnan(index)
    index = np.where(told, index, 0)

    def mean(weights: np.ndarray) -> np.ndarray:
        total = ((weights @ index) * weights).sum(-1)
        pairs = ((weights @ told) * weights).sum(-1)
        return np.divide(total, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)[:, None]

    return mean


def _shared(sets: Bool[np.ndarray, "s feature"], features: list[int]) -> dict[str, Any]:
    some = sets[sets.any(-1)]
    columns = zip(features, some.T, strict=True)
    return {
        "shared": tuple(f for f, column in columns if len(some) and column.all()),
        "union": tuple(features),
    }


def _interval(name: str, *numbers: float) -> dict[str, float]:
    """A point with its ends, or only their columns."""
    point, low, high = numbers or (np.nan,) * 3
    return {name: float(point), f"{name}_low": float(low), f"{name}_high": float(high)}
