"""Massive activations: which features of which tokens, from which layer to which.

Depends on record. Source: Sun et al. (arXiv 2402.17762): ``|x[t, d]| >= 1000 * median |x|`` of the
layer's residual state, median over all tokens and features; there also ``|x| > 100``. The number
100 belongs to a dtype and a scale, so it is optional here (``floor``).
"""

from typing import Any

import numpy as np
import pandas as pd

from sinkscope.analysis.criteria import massive_ratio
from sinkscope.analysis.tables import check_number, layers_of, token_table
from sinkscope.errors import InputError
from sinkscope.glossary import TABLE_COLUMNS
from sinkscope.record import Record

__all__ = ["find_massive_activations", "massive_features", "massive_layers"]

_AXES = ("sample", "layer", "token", "rank")


def find_massive_activations(
    record: Record, *, ratio: int | float | None = None, floor: int | float | None = None
) -> pd.DataFrame:
    """Every massive activation of resid_post: one row a layer, token and feature.

    A record holds the largest features of every token (8 by default). Where all of them pass, the
    token may have more: ``truncated`` says so.

    Args:
        record: one or several samples.
        ratio: |x| from this multiple of the layer's median |x| on is massive. None takes the
            subject's own ratio, else 1000.
        floor: a magnitude that must be passed too, strictly (100 in Sun et al.).

    Returns:
        ``TABLE_COLUMNS``, then ``feature``, ``value`` (signed), ``magnitude``, ``ratio`` (to the
        median), ``median``, ``first_layer`` and ``last_layer`` (where this feature of this token
        is massive), ``truncated``, ``ratio_threshold`` (the one that was used), ``bos_present``.
        None found gives no row; ``attrs["largest_ratio"]`` says how close it came.

    Raises:
        InputError: if ratio or floor is not above 0.
        SiteError: if the record holds no largest features.
    """
    used, source = massive_ratio(record, ratio)
    if floor is not None:
        check_number("floor", floor)
    value = record["top_value"].transpose(*_AXES).astype(np.float64)
    feature = record["top_feature"].transpose(*_AXES)
    median = record["median"].transpose("sample", "layer").values.astype(np.float64)
    magnitude = np.nan_to_num(np.abs(value.values))
    limit = used * median[:, :, None, None]
    massive = np.asarray(magnitude >= limit) & (magnitude > (floor or 0.0))
    full = massive.min(axis=-1)  # whether all that are held pass
    sample, place, token, rank = cells = np.nonzero(massive)
    columns = {
        "feature": feature.values[cells].astype(np.int64),
        "value": value.values[cells],
        "magnitude": magnitude[cells],
        "ratio": _ratio(magnitude[cells], median[sample, place]),
        "median": median[sample, place],
        "truncated": full[sample, place, token],
        "ratio_threshold": np.full(len(rank), used),
    }
    ratios = _ratio(magnitude, np.broadcast_to(median[:, :, None, None], magnitude.shape))
    attrs = {
        "table": "massive_activations",
        "ratio_threshold": used,
        "ratio_source": source,
        "floor": floor,
        "largest_ratio": float(np.nanmax(ratios, initial=0.0)),
        "largest_magnitude": float(magnitude.max(initial=0.0)),
        "features_a_token": int(value.sizes["rank"]),
        "truncated": bool(full.any()),
        "recorded_layers": layers_of(value),
    }
    table = token_table(record, (sample, place, token), layers_of(value), columns, attrs=attrs)
    return _with_layer_range(table)


def massive_features(massive: Record | pd.DataFrame, **thresholds: Any) -> pd.DataFrame:
    """The massive features of every token, and whether a layer's tokens share one set.

    Args:
        massive: what ``find_massive_activations`` returned, or a record.
        thresholds: for a record, the parameters of ``find_massive_activations``.

    Returns:
        One row a layer and token: ``TABLE_COLUMNS``, then ``features`` (sorted), ``n_features``,
        ``shared`` (the features that all massive tokens of the sample's layer have), ``union``
        (those that any has), ``jaccard`` (shared / union, 0 to 1), ``same`` (whether the sets are
        equal), ``n_tokens`` (how many the layer has), ``truncated`` (whether a set may be cut
        short), ``bos_present``.

    Raises:
        InputError: if the table is not one of ``find_massive_activations``.
    """
    if isinstance(massive, Record):
        massive = find_massive_activations(massive, **thresholds)
    elif thresholds:
        raise InputError(
            f"massive_features: {', '.join(thresholds)} cannot be applied to a finished table; "
            "give them to find_massive_activations."
        )
    if "feature" not in massive or "magnitude" not in massive:
        raise InputError(
            f"massive_features: a table with the columns {', '.join(map(str, massive))} is not "
            "one of find_massive_activations; give its result or a Record."
        )
    layers = massive.groupby(["sample", "layer"], sort=True)
    rows = [row for _, layer in layers for row in _feature_sets(layer)]
    names = ("features", "n_features", "shared", "union", "jaccard", "same", "n_tokens")
    columns = [*TABLE_COLUMNS, *names, "truncated", "bos_present"]
    table = pd.DataFrame(rows, columns=columns)
    table.attrs = {**massive.attrs, "table": "massive_features"}
    return table


def massive_layers(record: Record, *, count: int = 3) -> pd.DataFrame:
    """The largest |x| of every layer beside its median, as in the layer plots of Sun et al.

    Args:
        record: one or several samples.
        count: how many of the largest; at most as many as the record holds for each token.

    Returns:
        One row a sample and layer: ``TABLE_COLUMNS`` of the token that holds the largest,
        ``feature``, then ``top1`` to ``top<count>`` (magnitudes, over all tokens and features),
        ``top1_token``, ``top1_feature`` and so on, ``median``, ``ratio`` (top1 to the median), and
        ``bos_present``.

    Raises:
        InputError: if more are wanted than the record holds.
    """
    value = record["top_value"].transpose(*_AXES)
    feature = record["top_feature"].transpose(*_AXES)
    held = value.sizes["rank"]
    if not 1 <= count <= held:
        raise InputError(f"massive_layers: count is {count}; the record holds 1 to {held} a token.")
    layers = layers_of(value)
    samples, places = (axis.ravel() for axis in np.indices(value.shape[:2]))
    magnitude = np.nan_to_num(np.abs(value.values.astype(np.float64)), nan=-1.0)
    flat = magnitude.reshape(len(samples), -1)
    order = np.argsort(-flat, axis=-1, kind="stable")[:, :count]
    tokens, ranks = np.divmod(order, held)
    median = record["median"].transpose("sample", "layer").values.astype(np.float64).ravel()
    columns: dict[str, Any] = {"feature": None}
    for i in range(count):
        columns[f"top{i + 1}"] = np.take_along_axis(flat, order[:, i : i + 1], -1)[:, 0]
        columns[f"top{i + 1}_token"] = tokens[:, i]
        held_features = feature.values[samples, places, tokens[:, i], ranks[:, i]]
        columns[f"top{i + 1}_feature"] = held_features.astype(np.int64)
    columns["feature"] = columns["top1_feature"]
    columns |= {"median": median, "ratio": _ratio(columns["top1"], median)}
    attrs = {"table": "massive_layers"}
    return token_table(record, (samples, places, tokens[:, 0]), layers, columns, attrs=attrs)


def _feature_sets(layer: pd.DataFrame) -> list[dict[str, Any]]:
    """One row for each token of one sample's layer, with what its tokens share."""
    tokens = [group for _, group in layer.groupby("token", sort=True)]
    sets = [frozenset(group["feature"].tolist()) for group in tokens]
    shared, union = frozenset.intersection(*sets), frozenset.union(*sets)
    of_layer = {
        "shared": tuple(sorted(shared)),
        "union": tuple(sorted(union)),
        "jaccard": len(shared) / len(union),
        "same": len(set(sets)) == 1,
        "n_tokens": len(sets),
        "truncated": bool(layer["truncated"].any()),
    }
    return [
        {name: group[name].iloc[0] for name in (*TABLE_COLUMNS, "bos_present")}
        | {"features": tuple(sorted(held)), "n_features": len(held)}
        | of_layer
        for held, group in zip(sets, tokens, strict=True)
    ]


def _with_layer_range(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the first and last layer in which a feature of a token is massive."""
    groups = table.groupby(["sample", "token", "feature"])["layer"]
    before = table.columns.get_loc("truncated")
    table.insert(int(before), "first_layer", groups.transform("min").astype(np.int64))  # pyright: ignore[reportArgumentType]
    table.insert(int(before) + 1, "last_layer", groups.transform("max").astype(np.int64))  # pyright: ignore[reportArgumentType]
    return table


def _ratio(magnitude: np.ndarray, median: np.ndarray) -> np.ndarray:
    """Magnitude to median; infinite where the median is 0 and the magnitude is not."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(magnitude, median)
