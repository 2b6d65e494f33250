"""What a comparison found, at a glance: a few words for each of the questions that people have."""

from typing import Any

from sinkscope.analysis.comparison import Comparison
from sinkscope.analysis.feature_changes import STATUS
from sinkscope.analysis.words_comparison import FEW_CLIPS, change_words, difference_words
from sinkscope.reports.words import Answer

__all__ = ["comparison_answers"]


def comparison_answers(found: Comparison) -> list[Answer]:
    """Massive features, other sinks, BOS, twins, and the word error rate where it is known."""
    effects = {row["metric"]: row for row in found.effects.to_dict("records")}
    told = [
        _features(found, effects),
        _number("Sinks other than BOS", effects["intermediate_sinks"], "a clip; "),
        _number("Twins of BOS", effects["twins"], "a clip; "),
    ]
    if "bos_alpha" in effects:
        told.append(_number("Key attention of BOS", effects["bos_alpha"], "where it draws most; "))
    if "wer" in effects:
        told.append(_number("Word error rate", effects["wer"], ""))
    return told


def _features(found: Comparison, effects: dict[Any, Any]) -> Answer:
    question = "Massive features"
    over = found.features.loc[found.features["layer"].isna(), "status"].tolist()
    ratio = f"largest ratio to the median {change_words(effects['largest_ratio'])}"
    if not over:
        return Answer(question, "None in either", ratio, False)
    counts = [f"{over.count(name)} {name}" for name in STATUS if name in over]
    return Answer(question, ", ".join(counts), ratio, set(over) != {"kept"})


def _number(question: str, row: dict[Any, Any], unit: str) -> Answer:
    percent = row["metric"] == "wer"
    sides = [f"{row[side]:.1%}" if percent else f"{row[side]:.3g}" for side in ("before", "after")]
    sides = sides[:1] if sides[0] == sides[1] else sides
    moves = bool(row["clips"] >= FEW_CLIPS and (row["low"] > 0 or row["high"] < 0))
    return Answer(question, " → ".join(sides), f"{unit}{difference_words(row)}", moves)
