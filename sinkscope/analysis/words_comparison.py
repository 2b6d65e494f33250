"""What a comparison says, in words: also that nothing changed, and that clips are too few."""

from math import isfinite, isnan
from typing import Any

import pandas as pd

from sinkscope.analysis.comparison import Comparison
from sinkscope.analysis.feature_changes import STATUS

__all__ = [
    "FEW_CLIPS",
    "change_words",
    "comparison_sentences",
    "difference_words",
    "effect_cells",
    "effect_sentences",
]

FEW_CLIPS = 10
"""With fewer clips a percentile bootstrap interval is too narrow: the words warn."""

MANY = 3
"""A segment with more labels that are sinks is told as a whole."""

MOST = 5
"""Labels and features that are named."""

_PERCENT = ("wer", "bos_sink_rate", "other_sink_rate")


def comparison_sentences(found: Comparison) -> list[str]:
    """The findings of a comparison, one sentence or two a point."""
    effects = {row["metric"]: row for row in found.effects.to_dict("records")}
    told = [
        _frame(found),
        _features(found, effects),
        _where(found),
        _bos(found, effects),
        _others(found, effects),
        _direction(found, effects),
        _wer(effects),
        _nothing(found),
        _few(found),
    ]
    return [sentence for sentence in told if sentence]


def effect_sentences(table: pd.DataFrame) -> str:
    """The table of effects, a line a number."""
    rows = table.to_dict("records")
    return "\n".join(f"{row['meaning']}: {change_words(row)}." for row in rows)


def change_words(row: dict[Any, Any]) -> str:
    """A row of the table of effects: before, after, the difference and its interval.

    Examples:
        >>> change_words({"metric": "twins", "before": 3.0, "after": 1.0, "change": -2.0,
        ...               "low": -2.5, "high": -1.0})
        'from 3 to 1 (difference -2, 95 % interval -2.5 to -1)'
    """
    percent = row["metric"] in _PERCENT
    before, after = (_number(row[name], percent) for name in ("before", "after"))
    unit = " %" if percent else ""
    if _stays(row):
        return f"{before}{unit} before and after ({difference_words(row)})"
    return f"from {before} to {after}{unit} ({difference_words(row)})"


def difference_words(row: dict[Any, Any]) -> str:
    """The difference of such a row, and its interval.

    Examples:
        >>> difference_words({"metric": "wer", "change": 0.005, "low": -0.003, "high": 0.012})
        'difference +0.5 points, 95 % interval -0.3 to 1.2, which includes 0'
    """
    if _stays(row):
        return "no difference in any clip"
    percent = row["metric"] in _PERCENT
    change, low, high = (_number(row[name], percent) for name in ("change", "low", "high"))
    words = f"difference {'+' if row['change'] > 0 else ''}{change}{' points' * percent}"
    if isnan(row["low"]):
        return f"{words}, no interval"
    open_ = ", which includes 0" if row["low"] <= 0 <= row["high"] else ""
    return f"{words}, 95 % interval {low} to {high}{open_}"


def effect_cells(row: dict[Any, Any]) -> list[str]:
    """Metric, before, after, change, interval, effect size and clips of a row, as short texts."""
    percent = row["metric"] in _PERCENT
    before, after, change, low, high = (
        _number(row[name], percent) + " %" * percent
        for name in ("before", "after", "change", "low", "high")
    )
    interval = "" if isnan(row["low"]) else f"{low} to {high}"
    size = "" if isnan(row["effect_size"]) else f"{row['effect_size']:.2f}"
    name = row["metric"].replace("_", " ")
    return [name, before, after, change, interval, size, str(row["clips"])]


def _stays(row: dict[Any, Any]) -> bool:
    """Whether no clip moves."""
    return all(row[name] == 0 or isnan(row[name]) for name in ("change", "low", "high"))


def _frame(found: Comparison) -> str:
    clips = found.effects.attrs["samples"]
    return (
        f"{found.before} (before) and {found.after} (after) on {_count(clips, 'clip')}, token by "
        "token."
    )


def _features(found: Comparison, effects: dict[Any, Any]) -> str:
    said = found.features.attrs
    rule = f"|x| ≥ {said['ratio_threshold']:g} × the layer's median, {said['ratio_source']}"
    over = found.features.loc[found.features["layer"].isna()]
    ratio = f"Largest activation over its layer's median: {change_words(effects['largest_ratio'])}."
    if over.empty:
        return f"Neither model has a massive activation ({rule}). {ratio}"
    empty = over.iloc[:0]
    groups = dict(iter(over.groupby("status")))
    kept, lost, new = (groups.get(name, empty) for name in STATUS)
    had = len(kept) + len(lost)
    words = f"Of {_count(had, 'massive feature')} before, {_named(kept)} kept"
    words += f" and {_named(lost)} lost"
    words = words if had else "No feature is massive before"
    words += f"; {_named(new)} new ({rule})."
    size = kept["magnitude_after"] / kept["magnitude_before"]
    if len(kept):
        low, high = f"{size.min():.2f}", f"{size.max():.2f}"
        span = low if low == high else f"{low} to {high}"
        words += f" What is kept is {span} times as large."
    if len(lost):
        row = lost.iloc[0]
        most = "at most " if row["at_most_after"] else ""
        verb = "falls" if row["magnitude_after"] < row["magnitude_before"] else "grows"
        words += (
            f" Feature {row['feature']} {verb} from {_number(row['magnitude_before'])} to {most}"
            f"{_number(row['magnitude_after'])} (ratio to the median "
            f"{_number(row['ratio_before'])} to {_number(row['ratio_after'])})."
        )
    least = " A token may have more massive features than the record holds." * said["truncated"]
    return f"{words} {ratio}{least}"


def _where(found: Comparison) -> str:
    said = found.layers.attrs
    spans = [said["layers_before"], said["layers_after"]]
    if not any(spans):
        return ""
    if spans[0] == spans[1]:
        return f"Massive activations live in {_layers(spans[0])} before and after."
    words = [_layers(span) if span else "no layer" for span in spans]
    return f"Massive activations live in {words[0]} before and in {words[1]} after."


def _bos(found: Comparison, effects: dict[Any, Any]) -> str:
    said = found.sinks.attrs
    present = sum(said["bos_present"])
    if not present:
        return "There is no BOS; cosines are to the reference token."
    own = found.sink_tally
    own = own.loc[(own["kind"] == "bos") & own["layer"].isna() & own["label"].isna()]
    counts = [int(own[name].sum()) for name in ("clips_before", "clips_after")]
    words = f"BOS is a sink in {counts[0]} of {_count(present, 'clip')} before"
    words += f" and in {counts[1]} after"
    if "bos_alpha" in effects:
        words += f"; its largest key attention: {change_words(effects['bos_alpha'])}"
    return words + "."


def _others(found: Comparison, effects: dict[Any, Any]) -> str:
    tally = found.sink_tally
    own = _told_rows(tally.loc[(tally["kind"] == "intermediate") & tally["layer"].isna()])
    reach = ""
    if "other_alpha" in effects:
        reach = (
            " The largest key attention of a token other than BOS: "
            f"{change_words(effects['other_alpha'])}."
        )
    if own.empty:
        return f"No token other than BOS is a sink before or after.{reach}"
    named = [_fate(row) for row in own.head(MOST).to_dict("records")]
    more = f". {len(own) - MOST} more labels are in the tables" if len(own) > MOST else ""
    count = change_words(effects["intermediate_sinks"])
    return f"Sinks other than BOS a clip: {count}. {'. '.join(named)}{more}.{reach}"


def _told_rows(tally: pd.DataFrame) -> pd.DataFrame:
    """Labels one by one, but a segment of many labels (audio, video) as a whole."""
    labels = tally.loc[tally["label"].notna()]
    many = labels["segment"].map(labels["segment"].value_counts()) > MANY
    whole = tally["label"].isna() & tally["segment"].isin(labels.loc[many, "segment"])
    return pd.concat([tally.loc[whole], labels.loc[~many]])


def _fate(row: dict[Any, Any]) -> str:
    """What became of the sinks on one label."""
    had = row["kept"] + row["lost"]
    one_a_clip = had == row["clips_before"] and row["kept"] + row["new"] == row["clips_after"]
    unit = "clip" if one_a_clip else "token"
    parts = []
    if row["lost"]:
        parts.append(f"gone in {row['lost']} of {_count(had, unit)}")
    if row["kept"]:
        parts.append(f"kept in {row['kept']} of {_count(had, unit)}")
    if row["new"]:
        parts.append(f"new in {_count(row['new'], unit)}")
    alpha = f"key attention {row['alpha_before']:.2f} to {row['alpha_after']:.2f}"
    if isinstance(row["label"], str):
        return f"The sink on {row['label']!r} is {' and '.join(parts)} ({alpha})"
    counts = ", ".join(f"{row[status]} {status}" for status in STATUS)
    return f"Sinks on {row['segment']} tokens: {counts} ({alpha})"


def _direction(found: Comparison, effects: dict[Any, Any]) -> str:
    said = found.effects.attrs
    bos = "BOS" if all(said["bos_present"]) else "the reference token"
    twins = (
        f"Twins of {bos} (cosine > {said['cosine']:g}) a clip: {change_words(effects['twins'])}."
    )
    if "mean_cos2" not in effects:
        return twins
    return f"{twins} Mean cos² to {bos} below the last layer: {change_words(effects['mean_cos2'])}."


def _wer(effects: dict[Any, Any]) -> str:
    if "wer" not in effects:
        return ""
    row = effects["wer"]
    return f"Word error rate: {change_words(row)}, over {_count(row['clips'], 'clip')}."


def _nothing(found: Comparison) -> str:
    moved = (*found.effects["change"].tolist(), *found.similarity["cosine_change"].tolist())
    same = all(change == 0 or isnan(change) for change in moved)
    return "No number differs: the two records say the same." if same else ""


def _few(found: Comparison) -> str:
    clips = found.effects.attrs["samples"]
    if clips == 1:
        return "One clip says nothing of others: there is no interval."
    if clips < FEW_CLIPS:
        return (
            f"{clips} clips are few: bootstrap intervals of so few are too narrow. Take more "
            "before you rely on them."
        )
    return ""


def _named(rows: pd.DataFrame) -> str:
    """How many features, and which, up to the verb."""
    if rows.empty:
        return "none is"
    shown = ", ".join(map(str, rows["feature"][:MOST])) + ", ..." * (len(rows) > MOST)
    return f"{len(rows)} ({shown}) {'is' if len(rows) == 1 else 'are'}"


def _layers(span: str) -> str:
    return f"layer {span} (0-based)" if span.isdigit() else f"layers {span} (0-based)"


def _number(value: float, percent: bool = False) -> str:
    if not isfinite(value):
        return "–"
    text = f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    text = f"{100 * value:.1f}" if percent else text
    return "0" if float(text) == 0 else text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
