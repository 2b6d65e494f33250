"""Massive features of two models: kept, lost, new, and by how much. Depends on record.

A record holds the largest features of every token (8 by default). Of a feature that a token does
not hold, the size is known from above only: it is at most the token's smallest one that is held.
That limit stands for it, so that a feature that vanished is never said to have shrunk too far.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from sinkscope.analysis.paired import paired_change
from sinkscope.analysis.tables import as_ranges
from sinkscope.glossary import paper_layer
from sinkscope.record import Record

__all__ = ["STATUS", "feature_changes", "members", "status_of"]

STATUS = ("kept", "lost", "new")
"""In both models, before only, after only."""

_AXES = ("sample", "layer", "token", "rank")


def feature_changes(
    before: Record,
    after: Record,
    massive: tuple[pd.DataFrame, pd.DataFrame],
    weights: Int[np.ndarray, "draw sample"],
) -> pd.DataFrame:
    """Every feature that is massive in a layer before or after, and how its magnitude moves.

    Args:
        before: needs ``top_value``, ``top_feature`` and ``median``.
        after: of the same clips.
        massive: what ``find_massive_activations`` returned for both, by one ratio.
        weights: what ``bootstrap_weights`` gave.

    Returns:
        One row a layer and feature, and for each feature a last one over all layers (``layer``
        missing): ``layer paper_layer feature status``, ``clips_before clips_after`` (in which it
        is massive), ``magnitude_before magnitude_after`` (largest |x| over tokens, mean over
        clips), ``change low high effect_size`` of it, ``ratio_before ratio_after`` (to the
        layer's median; over layers the largest), ``at_most_before at_most_after`` (whether the
        magnitude is a limit from above in some clip), ``layers_before layers_after`` (0-based, as
        texts). The largest comes first.
    """
    features = sorted({*massive[0]["feature"].tolist(), *massive[1]["feature"].tolist()})
    sizes = [_sizes(record, features) for record in (before, after)]
    sets = [members(found, features, before.layers) for found in massive]
    over = [np.any(held, axis=1) for held in sets]
    tables = [
        _of_layer([size.at(i) for size in sizes], [held[:, i] for held in sets], weights)
        for i in range(len(before.layers))
    ]
    tables.append(_of_layer([size.over_layers() for size in sizes], over, weights))
    for layer, table in zip((*before.layers, None), tables, strict=True):
        table["layer"], table["feature"] = layer, features
        for name, held in zip(("layers_before", "layers_after"), sets, strict=True):
            where = [np.flatnonzero(own) for own in np.any(held, axis=0).T]
            table[name] = [as_ranges(before.layers[i] for i in places) for places in where]
    return _arranged(tables)


def members(
    massive: pd.DataFrame, features: Sequence[int], layers: Sequence[int]
) -> Bool[np.ndarray, "sample layer feature"]:
    """Which features are massive at any token of each clip and layer."""
    held = np.zeros((massive.attrs["samples"], len(layers), len(features)), bool)
    layer = np.searchsorted(layers, massive["layer"].to_numpy(np.int64))
    feature = np.searchsorted(features, massive["feature"].to_numpy(np.int64))
    held[massive["sample"].to_numpy(np.int64), layer, feature] = True
    return held


def status_of(before: Bool[np.ndarray, " number"], after: Bool[np.ndarray, " number"]) -> list[str]:
    """Kept, lost or new, for things that are there before or after.

    Examples:
        >>> status_of(np.array([True, True, False]), np.array([True, False, True]))
        ['kept', 'lost', 'new']
    """
    return [STATUS[0 if a and b else 1 if a else 2] for a, b in zip(before, after, strict=True)]


@dataclass(frozen=True, eq=False)
class _Sizes:
    """Largest |x| of features over tokens; the axes begin with the clip and end with the feature.

    ``at_most`` says where the magnitude is a limit from above.
    """

    magnitude: np.ndarray
    ratio: np.ndarray
    at_most: np.ndarray

    def at(self, place: int) -> "_Sizes":
        return _Sizes(self.magnitude[:, place], self.ratio[:, place], self.at_most[:, place])

    def over_layers(self) -> "_Sizes":
        """The largest of all layers."""
        largest = self.magnitude.argmax(1)[:, None]
        at_most = np.take_along_axis(self.at_most, largest, 1)[:, 0]
        return _Sizes(self.magnitude.max(1), self.ratio.max(1), at_most)


def _sizes(record: Record, features: Sequence[int]) -> _Sizes:
    value = np.abs(record["top_value"].transpose(*_AXES).values.astype(np.float64))
    number = record["top_feature"].transpose(*_AXES).values
    median = record["median"].transpose("sample", "layer").values.astype(np.float64)
    known = np.isfinite(value)
    value = np.where(known, value, 0.0)
    limit = np.where(known.any(-1), value.min(-1), -1.0)  # of what the token does not hold
    magnitude = np.zeros((*value.shape[:2], len(features)))
    at_most = np.zeros(magnitude.shape, bool)
    for i, feature in enumerate(features):
        held = (number == feature) & known
        sizes = np.where(held.any(-1), np.where(held, value, 0.0).max(-1), limit)
        largest = sizes.argmax(-1)[..., None]
        magnitude[..., i] = np.take_along_axis(sizes, largest, -1)[..., 0]
        at_most[..., i] = ~np.take_along_axis(held.any(-1), largest, -1)[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return _Sizes(magnitude, magnitude / median[..., None], at_most)


def _of_layer(
    sizes: Sequence[_Sizes], sets: Sequence[np.ndarray], weights: np.ndarray
) -> pd.DataFrame:
    """A row for every feature, also where it is massive in no clip."""
    (one, other), (had, has) = sizes, sets
    moved = paired_change(one.magnitude, other.magnitude, weights).drop(columns="clips")
    moved = moved.rename(columns={"before": "magnitude_before", "after": "magnitude_after"})
    return moved.assign(
        status=status_of(np.any(had, axis=0), np.any(has, axis=0)),
        clips_before=had.sum(0),
        clips_after=has.sum(0),
        ratio_before=one.ratio.mean(0),
        ratio_after=other.ratio.mean(0),
        at_most_before=one.at_most.any(0),
        at_most_after=other.at_most.any(0),
    )


def _arranged(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The features that a layer has, the largest first; the rows over all layers at the end."""
    table = pd.concat(
        [table.astype({"layer": "Int64", "feature": "int64"}) for table in tables],
        ignore_index=True,
    )
    table = table.loc[(table["clips_before"] > 0) | (table["clips_after"] > 0)]
    table["paper_layer"] = table["layer"] + paper_layer(0)
    table["size"] = table[["magnitude_before", "magnitude_after"]].max(axis=1)
    order = ["layer", "size", "feature"]
    table = table.sort_values(order, ascending=[True, False, True], ignore_index=True)
    return table[COLUMNS]


COLUMNS = [
    "layer",
    "paper_layer",
    "feature",
    "status",
    "clips_before",
    "clips_after",
    "magnitude_before",
    "magnitude_after",
    "change",
    "low",
    "high",
    "effect_size",
    "ratio_before",
    "ratio_after",
    "at_most_before",
    "at_most_after",
    "layers_before",
    "layers_after",
]
"""Those of ``feature_changes``."""
