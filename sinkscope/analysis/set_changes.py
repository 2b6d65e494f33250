"""Where massive activations live before and after, and how far the sets are the same."""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from sinkscope.analysis.bootstrap import bootstrap_interval
from sinkscope.analysis.feature_changes import members
from sinkscope.analysis.tables import as_ranges
from sinkscope.glossary import paper_layer
from sinkscope.record import Record

__all__ = ["layer_changes", "set_changes"]


def set_changes(
    before: pd.DataFrame, after: pd.DataFrame, weights: Int[np.ndarray, "draw sample"]
) -> pd.DataFrame:
    """How far the massive features of a layer are one set before and after.

    Args:
        before: what ``find_massive_activations`` returned.
        after: the same of the other model, by the same rule.
        weights: what ``bootstrap_weights`` gave.

    Returns:
        One row a layer, and a last one over all layers (``layer`` missing): ``layer
        paper_layer``, ``n_before n_after n_both`` (features that any clip has), ``jaccard_of_all``
        (n_both over those of either), ``jaccard jaccard_low jaccard_high`` (mean over clips of the
        Jaccard index of the clip's own two sets, with its 95 % interval), ``clips`` (that have any
        before or after). NaN where there is nothing to compare.
    """
    layers = before.attrs["recorded_layers"]
    features = sorted({*before["feature"].tolist(), *after["feature"].tolist()})
    had, has = (members(massive, features, layers) for massive in (before, after))
    rows = [_row(had[:, i], has[:, i], weights) for i in range(len(layers))]
    rows.append(_row(np.any(had, axis=1), np.any(has, axis=1), weights))
    table = pd.DataFrame(rows)
    table.insert(0, "layer", pd.array([*layers, None], dtype="Int64"))  # pyright: ignore[reportArgumentType]
    table.insert(1, "paper_layer", table["layer"] + paper_layer(0))
    return table


def layer_changes(record: Record, before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """In which layers massive activations live before and after.

    Args:
        record: either record, for its layers and number of clips.
        before: what ``find_massive_activations`` returned.
        after: the same of the other model.

    Returns:
        One row a layer: ``layer paper_layer``, ``clips_before clips_after`` (that have any),
        ``tokens_before tokens_after`` (with any, of all clips), ``ratio_before ratio_after``
        (the largest ratio to the median in any clip, 0 where nothing is massive). ``attrs`` hold
        ``layers_before`` and ``layers_after``, as texts.
    """
    table = pd.DataFrame({"layer": record.layers})
    table["paper_layer"] = table["layer"] + paper_layer(0)
    said = {}
    for side, massive in (("before", before), ("after", after)):
        tokens = massive.drop_duplicates(["sample", "layer", "token"])
        groups = {
            "clips": massive.groupby("layer")["sample"].nunique(),
            "tokens": tokens.groupby("layer").size(),
            "ratio": massive.groupby("layer")["ratio"].max(),
        }
        for name, found in groups.items():
            table[f"{name}_{side}"] = table["layer"].map(found).fillna(0)
        said[f"layers_{side}"] = as_ranges(massive["layer"].tolist())
    names = ["layer", "paper_layer"]
    names += [f"{name}_{side}" for name in ("clips", "tokens", "ratio") for side in _SIDES]
    counts = [f"{name}_{side}" for name in ("clips", "tokens") for side in _SIDES]
    table = table.loc[:, names].astype(dict.fromkeys(counts, np.int64))
    table.attrs = {"table": "layer_changes", **said}
    return table


_SIDES = ("before", "after")


def _row(
    had: Bool[np.ndarray, "sample feature"],
    has: Bool[np.ndarray, "sample feature"],
    weights: Int[np.ndarray, "draw sample"],
) -> dict[str, float | int]:
    both, either = (had & has).sum(-1), (had | has).sum(-1)
    some = either > 0
    index = np.divide(both, either, out=np.zeros(len(either)), where=some)

    def mean(drawn: np.ndarray) -> np.ndarray:
        count = drawn @ some
        empty = np.full(len(drawn), np.nan)
        return np.divide(drawn @ index, count, out=empty, where=count > 0)[:, None]

    (point,), (low,), (high,) = bootstrap_interval(mean, weights)
    alone = some.sum() < 2
    of_all, of_both = (had.any(0) | has.any(0)).sum(), (had.any(0) & has.any(0)).sum()
    return {
        "n_before": int(had.any(0).sum()),
        "n_after": int(has.any(0).sum()),
        "n_both": int(of_both),
        "jaccard_of_all": of_both / of_all if of_all else np.nan,
        "jaccard": float(point),
        "jaccard_low": np.nan if alone else float(low),
        "jaccard_high": np.nan if alone else float(high),
        "clips": int(some.sum()),
    }
