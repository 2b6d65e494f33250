"""What the tables of found features say: validation, stability, inheritance, published sets."""

from collections import Counter
from collections.abc import Callable, Sequence
from math import isnan
from typing import Any

import pandas as pd

__all__ = ["FEATURE_WRITERS"]


def _validation(table: pd.DataFrame) -> str:
    said, total = table.attrs, table.iloc[-1]
    needed = {"all": "all of", "any": "any of"}[said["need"]]
    rule = f"|x| ≥ {said['ratio_threshold']:g} × the median, {said['ratio_source']}"
    judged = (
        f"{_count(said['samples'], 'clip')}, layers {_layers(table)}, a token counted once a layer"
        + ("" if said["with_reference"] else ", the reference token left out")
    )
    if not total["features"]:
        return (
            f"No feature to validate: none is massive in a state that enters a layer ({rule}); "
            f"attention alone finds {_count(int(total['sinks']), 'sink')} ({judged})."
        )
    verdict = "is an attention sink" if total["tp"] == 1 else "are attention sinks"
    cut = f" {total['truncated']} more could not be told." if total["truncated"] else ""
    return (
        f"{_count(int(total['flagged']), 'token')} {'has' if total['flagged'] == 1 else 'have'} "
        f"{needed} their layer's features {_features(total['features'])} massive as they enter it "
        f"({rule}); {total['tp']} of these {verdict} (precision "
        f"{_with_interval(total, 'precision')}), out of {_count(int(total['sinks']), 'sink')} "
        f"(recall {_with_interval(total, 'recall')}; {judged}).{cut}"
    )


def _stability(table: pd.DataFrame) -> str:
    return {"layer": _by_layer, "sample": _by_sample, "feature": _by_feature}[table.attrs["by"]](
        table
    )


def _by_layer(table: pd.DataFrame) -> str:
    clips = _count(table.attrs["samples"], "clip")
    told = table.loc[table["jaccard"].notna()]
    if told.empty:
        return f"No layer to compare between clips: {clips}, and two with any are needed."
    least = told.loc[told["jaccard"].idxmin()]
    same = int((told["jaccard"] == 1).sum())
    differ = (
        f"; the least alike are those of layer {least['layer']} (0-based): mean Jaccard between "
        f"clips {_with_interval(least, 'jaccard')}"
    )
    return (
        f"The massive features are the same set in all of {clips} in {same} of "
        f"{_count(len(told), 'layer')} that {'has' if len(told) == 1 else 'have'} any"
        f"{differ if same < len(told) else ''}."
    )


def _by_sample(table: pd.DataFrame) -> str:
    told = table.loc[table["jaccard"].notna()]
    if told.empty:
        return "No clip has massive features in two layers: no sets to compare."
    same = int((told["jaccard"] == 1).sum())
    return (
        f"The massive features are the same set in all layers that have any in {same} of "
        f"{_count(len(told), 'clip')} (mean Jaccard between layers {told['jaccard'].mean():.2f})."
    )


def _by_feature(table: pd.DataFrame) -> str:
    overall = table.loc[table["layer"].isna()].sort_values("share", ascending=False)
    if overall.empty:
        return "No feature is massive in any clip."
    shown = [f"{row['feature']} in {_with_interval(row, 'share')}" for _, row in overall.iterrows()]
    return (
        f"Massive features and the share of {_count(table.attrs['samples'], 'clip')} that have "
        f"them: {_listed(shown)}."
    )


def _comparison(table: pd.DataFrame) -> str:
    said = table.attrs
    rule = f"|x| ≥ {said['ratio_threshold']:g} × the layer's median"
    rule += "" if said.get("floor") is None else f" and > {said['floor']:g}"
    if table.empty:
        return f"Neither the model nor its base has a massive feature ({rule})."
    parts = []
    for status, words in (
        ("inherited", "inherited from the base"),
        ("new", "new"),
        ("lost", "lost"),
    ):
        features = table.loc[table["status"] == status, "feature"].tolist()
        parts.append(f"{len(features)} {words}" + f" {_features(features)}" * bool(features))
    kept = table.loc[table["status"] == "inherited", "magnitude_ratio"]
    size = (
        f" The inherited ones are {kept.min():.2f} to {kept.max():.2f} times as large."
        if len(kept)
        else ""
    )
    return f"Massive features: {', '.join(parts)} ({rule}).{size}"


def _match(table: pd.DataFrame) -> str:
    said = table.attrs
    of = f"{_count(len(said['found']), 'feature')} found {_features(said['found'])}"
    if table.empty:
        return f"None of {said['compared']} published sets shares a feature with the {of}."
    best = table.iloc[0]
    chance = "" if isnan(best["chance"]) else f"; by chance {best['expected']:.2g} are expected"
    return (
        f"The published set closest to the {of} is that of {best['model']}: "
        f"{best['n_overlap']} of its {best['n_published']} (Jaccard {best['jaccard']:.2f}{chance}; "
        f"{best['marks']}). A hint of the origin, not a proof."
    )


def _published(table: pd.DataFrame) -> str:
    marks = Counter(table["mark"].tolist())
    return (
        f"Published features or neurons of {_count(len(set(table['model'])), 'model')}: "
        f"{', '.join(f'{n} {mark}' for mark, n in marks.most_common())}."
    )


def _with_interval(row: pd.Series, name: str) -> str:
    numbers: list[Any] = [row[column] for column in (name, f"{name}_low", f"{name}_high")]
    point, *ends = map(float, numbers)
    if isnan(point):
        return "undefined"
    told = "" if isnan(ends[0]) else f" [{ends[0]:.2f}, {ends[1]:.2f}]"
    return f"{point:.2f}{told}"


def _features(features: Sequence[int]) -> str:
    return f"({_listed([str(feature) for feature in features])})"


def _listed(words: Sequence[str], most: int = 8) -> str:
    return ", ".join(words[:most]) + ", ..." * (len(words) > most)


def _layers(table: pd.DataFrame) -> str:
    layers = table["layer"].dropna().tolist()
    return f"{min(layers)} to {max(layers)} (0-based)"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


FEATURE_WRITERS: dict[str, Callable[[pd.DataFrame], str]] = {
    "feature_validation": _validation,
    "feature_stability": _stability,
    "feature_comparison": _comparison,
    "published_match": _match,
    "published_features": _published,
}
"""The writer of each table, by the name in its attrs."""
