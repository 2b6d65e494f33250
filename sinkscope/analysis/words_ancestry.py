"""What the tables of high norms and of sinks' ancestry say. Depends on pandas only."""

from collections.abc import Callable

import pandas as pd

__all__ = ["ANCESTRY_WRITERS"]

_WHERE = {
    "encoder": "at the encoder's output",
    "projector": "at the entrance of the LLM",
    "llm": "inside the LLM",
    "attention": "nowhere: they draw attention without a long state",
}
_WHAT = {"sinks": ("sink", "sinks"), "high_norm": ("token of high norm", "tokens of high norm")}


def high_norm_sentences(table: pd.DataFrame) -> str:
    """How many tokens are of high norm, and how close none came."""
    said = table.attrs
    rule = f"norm > {said['ratio']:g} × the median of its segment"
    if table.empty:
        return f"No token of high norm ({rule}): the largest ratio is {said['largest_ratio']:.2g}."
    tokens = table[["sample", "token"]].drop_duplicates()
    return (
        f"{len(tokens)} token{'s' * (len(tokens) > 1)} of high norm ({rule}), first in layer "
        f"{table['layer'].min()}; the largest ratio is {said['largest_ratio']:.2g}."
    )


def ancestry_sentences(table: pd.DataFrame) -> str:
    """Where the sinks' high norm first shows, with the control of each stream."""
    said = table.attrs
    told = [_shown(table)]
    for stream, found in said["control"].items():
        if not found["sinks"]:
            continue
        told.append(
            f"{stream.capitalize()}: {found['high_tokens']} of {found['tokens']} tokens were made "
            f"of frames of high norm; {found['from_encoder']} of {found['sinks']} sinks, against "
            f"{found['expected']:.2g} of as many random tokens (p = {found['p']:.2g})."
        )
    told += [f"Left out: {name}. {why}" for name, why in said.get("skipped", {}).items()]
    return " ".join(told)


def _shown(table: pd.DataFrame) -> str:
    one, several = _WHAT[table.attrs["which"]]
    streams = " or ".join(table.attrs["streams"])
    if table.empty:
        return f"No {one} among the tokens of {streams}."
    counts = [
        f"{number} {_WHERE[str(place)]}"
        for place, number in table["first_shown"].value_counts().items()
    ]
    return (
        f"Of {len(table)} {several if len(table) > 1 else one} among the tokens of {streams}, the "
        f"high norm (> {table.attrs['ratio']:g} × the median of the stream) first shows for "
        f"{', for '.join(counts)}."
    )


ANCESTRY_WRITERS: dict[str, Callable[[pd.DataFrame], str]] = {
    "high_norm": high_norm_sentences,
    "sink_ancestry": ancestry_sentences,
}
"""By the ``table`` of their ``attrs``."""
