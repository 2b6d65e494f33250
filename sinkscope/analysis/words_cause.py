"""What the tables of origins and effects say."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from sinkscope.analysis.effects import BEFORE
from sinkscope.analysis.ledger import BETWEEN

__all__ = ["CAUSE_WRITERS"]

_PARTS = {
    "mlp": "by the MLP",
    "attention": "by attention",
    "experts": "by the experts",
    "embedding": "with the embedding",
    BETWEEN: "by what the model adds before it",
}
_FORMS = {"wer": "{:.1%}", "sink_rate": "{:.1%}", "largest_sink_rate": "{:.0%}", "kl": "{:.3f}"}
_TOLD = ("loss", "wer", "kl", "sinks", "largest_ratio")
_NAMES = {"wer": "word error rate", "kl": "KL divergence", "largest_ratio": "largest ratio"}


def _births(table: pd.DataFrame) -> str:
    if table.empty:
        return "Nothing was traced."
    groups: dict[tuple[int, str], int] = {}
    for key in zip(table["layer"].tolist(), table["part"].tolist(), strict=True):
        groups[key] = groups.get(key, 0) + 1
    places = [
        f"{count} in layer {layer} {_PARTS[part]}"
        for (layer, part), count in sorted(groups.items())
    ]
    led = table["neuron"].dropna().tolist()
    neurons = ", ".join(str(number) for number in sorted(set(led))[:8])
    names = f" Leading neurons: {neurons}." if led else ""
    return f"Of {len(table)} values (token and feature), born: {'; '.join(places)}.{names}"


def _effects(table: pd.DataFrame) -> str:
    """One line a condition."""
    lines = []
    for condition in dict.fromkeys(table["condition"]):
        own = table.loc[(table["condition"] == condition) & table["metric"].isin(_TOLD)]
        if condition == BEFORE or not len(own):
            continue
        rows = {row["metric"]: row for row in own.to_dict("records")}
        told = "; ".join(_change(metric, rows[metric]) for metric in _TOLD if metric in rows)
        lines.append(f"{condition}: {told}.")
    return "\n".join(lines) or "No condition was measured."


def _change(metric: str, row: dict) -> str:
    form = _FORMS.get(metric, "{:.2f}")
    words = f"{_NAMES.get(metric, metric)} {form.format(row['before'])} to "
    words += form.format(row["after"])
    if not np.isfinite(row["low"]):
        return words
    low, high = form.format(row["low"]), form.format(row["high"])
    return f"{words} (95 % interval of the change {low} to {high})"


CAUSE_WRITERS: dict[str, Callable[[pd.DataFrame], str]] = {"births": _births, "effects": _effects}
"""Writers of ``describe``, by the name of the table."""
