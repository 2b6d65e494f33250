"""Input controls in words: what each one leaves of sinks and massive activations. Pandas only."""

from collections import Counter

import pandas as pd

from sinkscope.errors import InputError

__all__ = ["control_sentences"]

_ORIGINAL = "original"


def control_sentences(table: pd.DataFrame) -> list[str]:
    """One sentence for the unchanged inputs, and one for each control.

    A control is compared with those unchanged inputs that it could be applied to: the number on
    the left of an arrow is theirs. Features alike by 25% have a mean Jaccard index of 0.25.

    Args:
        table: what ``input_controls`` returned, whole or filtered to some controls.

    Raises:
        InputError: if no unchanged input is in it.
    """
    before = table.loc[table["control"] == _ORIGINAL]
    if before.empty:
        raise InputError("input controls: the table has no row 'original' to compare with.")
    told = [_unchanged(before, table.attrs)]
    for name in dict.fromkeys(table["control"]):
        if name != _ORIGINAL:
            told.append(_control(table.loc[table["control"] == name], before, table.attrs))
    return [*told, *_caution(before, table.attrs)]


def _unchanged(before: pd.DataFrame, said: dict) -> str:
    rule = f"key attention > {said['threshold']:g}, |x| ≥ {said['ratio_threshold']:g} × the median"
    return (
        f"Unchanged ({_count(len(before), 'input')}; {rule}): sink rate of {_reference(before)} "
        f"{_mean(before, 'sink_rate'):.2f}; an intermediate sink in {_held(before)} of "
        f"{len(before)}{_labels(before)}; largest |x| {_mean(before, 'largest_ratio'):.0f} × the "
        f"median; {_massive(before)}. Below, the unchanged inputs stand left of an arrow."
    )


def _control(rows: pd.DataFrame, before: pd.DataFrame, said: dict) -> str:
    name = str(rows["control"].iloc[0])
    words = said.get("words", {}).get(name, name.replace("_", " "))
    opening = words[:1].upper() + words[1:]
    done, reasons = rows.loc[rows["reason"] == ""], _reasons(rows)
    if done.empty:
        return f"{opening}: not possible ({reasons})."
    own = before.loc[before["sample"].isin(done["sample"])]
    rate = f"{_mean(own, 'sink_rate'):.2f} → {_mean(done, 'sink_rate'):.2f}"
    ratio = f"{_mean(own, 'largest_ratio'):.0f} → {_mean(done, 'largest_ratio'):.0f}"
    return (
        f"{opening}: sink rate {rate} (of {_reference(done)}); inputs with an intermediate sink "
        f"{_held(own)} → {_held(done)} of {len(done)}{_labels(done)}; largest |x| {ratio} × the "
        f"median; {_features(done)}{f'; not possible elsewhere ({reasons})' if reasons else ''}."
    )


def _features(done: pd.DataFrame) -> str:
    """How the massive features compare with the original's."""
    alike = [one for one in done["jaccard"].tolist() if one == one]
    if not alike:
        return "no massive features, as before"
    if not any(done["n_massive"].tolist()):
        return "no massive features any more"
    mean = sum(alike) / len(alike)
    return "the same massive features" if mean == 1 else f"massive features alike by {mean:.0%}"


def _massive(rows: pd.DataFrame) -> str:
    features = sorted({one for found in rows["massive_features"] for one in found})
    if not features:
        return "no massive features"
    shown = ", ".join(map(str, features[:6])) + (" …" if len(features) > 6 else "")
    return f"massive feature{'s' if len(features) > 1 else ''} {shown}"


def _labels(rows: pd.DataFrame) -> str:
    """The most frequent labels of intermediate sinks, in brackets."""
    labels = Counter(label for found in rows["intermediate"] for label in set(found))
    named = ", ".join(f"{label!r}" + f" ×{n}" * (n > 1) for label, n in labels.most_common(3))
    return f" ({named}{', …' if len(labels) > 3 else ''})" if labels else ""


def _held(rows: pd.DataFrame) -> int:
    return sum(number > 0 for number in rows["n_intermediate"].tolist())


def _reference(rows: pd.DataFrame) -> str:
    present = rows["bos_present"].tolist()
    if all(present):
        return "BOS"
    return "BOS or the first token" if any(present) else "the first token"


def _reasons(rows: pd.DataFrame) -> str:
    return "; ".join(dict.fromkeys(one.rstrip(".") for one in rows["reason"] if one))


def _caution(before: pd.DataFrame, said: dict) -> list[str]:
    """Short inputs, whose first token passes by even attention alone."""
    short = sum(alpha > said["threshold"] for alpha in before["even_alpha"].tolist())
    if not short:
        return []
    return [
        f"In {short} of {_count(len(before), 'input')} even attention alone gives the first token "
        f"more than {said['threshold']:g}, so that its sink rate says little: use longer inputs."
    ]


def _mean(rows: pd.DataFrame, column: str) -> float:
    values = rows[column].tolist()
    return sum(values) / len(values)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
