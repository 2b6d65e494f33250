"""Inherited from the base LLM, or new? Massive features of two models compared. Depends on record.

A clip cannot go through the base LLM of an audio-visual model, so record both on text: the same
sentence, or BOS alone. A state at position 0 sees nothing else, so BOS alone tells all of BOS.

Example:
    >>> import sinkscope as ss
    >>> text = "bin blue at f two now"
    >>> found = ss.record(ss.load("my-avsr"), text)                       # doctest: +SKIP
    >>> base = ss.record(ss.load("meta-llama/Llama-3.2-1B"), text)        # doctest: +SKIP
    >>> ss.compare_features(found, base)                                  # doctest: +SKIP
"""

from typing import Any

import pandas as pd

from sinkscope.analysis.stability import as_massive
from sinkscope.analysis.tables import as_ranges
from sinkscope.errors import InputError
from sinkscope.record import Record

__all__ = ["STATUS", "compare_features"]

STATUS = ("inherited", "new", "lost")
"""Massive in both models, in the one at hand only, in the base only."""

_SHAPE = {"d_model": "width", "n_layers": "number of layers", "recorded_layers": "recorded layers"}
_RULE = {"ratio_threshold": "ratio to the median", "floor": "floor"}


def compare_features(
    found: Record | pd.DataFrame, base: Record | pd.DataFrame, **thresholds: Any
) -> pd.DataFrame:
    """Which massive features a model has from its base LLM, feature by feature.

    Record both models on the same texts (or BOS alone), with or without BOS in both: BOS alone
    can decide whether a feature is massive. Feature numbers mean the same only in models of one
    architecture of which one was trained from the other.

    Args:
        found: the model at hand: a record, or what ``find_massive_activations`` returned.
        base: the same of its base LLM.
        **thresholds: for records, the parameters of ``find_massive_activations``; give ``ratio``
            where the two subjects carry different ones.

    Returns:
        One row a feature: ``feature``, ``status`` ("inherited", "new" or "lost"),
        ``found_layers base_layers both_layers`` (0-based, as texts), ``found_magnitude
        base_magnitude`` (the largest |x| over layers and tokens; NaN where it is not massive),
        ``magnitude_ratio`` (found to base), ``found_tokens base_tokens`` (labels of the tokens
        that hold it). Inherited ones come first, the largest first. A feature that is not massive
        in one model may still be large there: the status follows the threshold.

    Raises:
        InputError: if the two differ in width, layers, thresholds or in having BOS, or if one is
            no table of massive activations.
    """
    if thresholds and not isinstance(found, Record) and not isinstance(base, Record):
        raise InputError(
            f"compare_features: {', '.join(thresholds)} cannot be applied to finished tables; "
            "give them to find_massive_activations."
        )
    has, had = (
        as_massive(given, "compare_features", thresholds if isinstance(given, Record) else {})
        for given in (found, base)
    )
    _refuse_unlike(_facts(found, has), _facts(base, had))
    features = sorted({*has["feature"].tolist(), *had["feature"].tolist()})
    rows = [_row(f, has.loc[has["feature"] == f], had.loc[had["feature"] == f]) for f in features]
    rows.sort(key=lambda row: (STATUS.index(row["status"]), -_size(row)))
    table = pd.DataFrame(rows, columns=list(_row(0, has.iloc[:0], had.iloc[:0])))
    table.attrs = {
        **has.attrs,
        "table": "feature_comparison",
        "base": had.attrs.get("subject"),
        "truncated": has.attrs["truncated"] or had.attrs["truncated"],
    }
    return table


def _facts(given: Record | pd.DataFrame, massive: pd.DataFrame) -> dict[str, Any]:
    """What must agree; None where a table does not say it."""
    said = {**(given.provenance if isinstance(given, Record) else {}), **massive.attrs}
    return {name: said.get(name) for name in (*_SHAPE, *_RULE)} | {"bos": said["bos_present"]}


def _refuse_unlike(found: dict[str, Any], base: dict[str, Any]) -> None:
    unknown = ("d_model", "n_layers")  # a table may not say them
    for names, advice in (
        (_SHAPE, "compare a model with the base LLM that it was trained from, recorded alike"),
        (_RULE, "judge both by the same rule, with ratio= and floor="),
    ):
        for name, words in names.items():
            a, b = found[name], base[name]
            if a != b and not (name in unknown and None in (a, b)):
                raise InputError(
                    f"compare_features: the models differ in their {words}, {a} and {b}; {advice}."
                )
    if set(found["bos"]) != set(base["bos"]):
        words = [
            "some have" if len(set(b)) > 1 else "all have" if all(b) else "none has"
            for b in (found["bos"], base["bos"])
        ]
        raise InputError(
            f"compare_features: of the samples of the model {words[0]} a BOS, of its base's "
            f"{words[1]} one; BOS alone can decide what is massive, so record both alike."
        )


def _row(feature: int, has: pd.DataFrame, had: pd.DataFrame) -> dict[str, Any]:
    """What the rows of one feature say, in the model and in its base."""
    layers, before = set(has["layer"].tolist()), set(had["layer"].tolist())
    size, size_before = has["magnitude"].max(), had["magnitude"].max()
    return {
        "feature": feature,
        "status": "lost" if not layers else "inherited" if before else "new",
        "found_layers": as_ranges(layers),
        "base_layers": as_ranges(before),
        "both_layers": as_ranges(layers & before),
        "found_magnitude": size,
        "base_magnitude": size_before,
        "magnitude_ratio": size / size_before,
        "found_tokens": tuple(dict.fromkeys(has["label"].tolist())),
        "base_tokens": tuple(dict.fromkeys(had["label"].tolist())),
    }


def _size(row: dict[str, Any]) -> float:
    return row["base_magnitude"] if row["status"] == "lost" else row["found_magnitude"]
