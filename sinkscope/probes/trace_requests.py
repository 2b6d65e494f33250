"""What a trace is asked for: which tokens and features of which samples, by tables.

Example:
    >>> found = pd.DataFrame({"sample": [0, 0], "token": [2, 5], "feature": [3, 8]})
    >>> chosen_features([found], None, 16)
    (3, 8)
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout

__all__ = [
    "chosen_features",
    "named_pairs",
    "named_tokens",
    "ordinary_tokens",
    "refuse_layers",
]


def chosen_features(
    found: Sequence[pd.DataFrame], given: Sequence[int] | None, width: int
) -> tuple[int, ...]:
    """The features to trace, in order: those given, else those of the tables.

    Args:
        found: the tables.
        given: the features that were asked for.
        width: features of the residual stream.

    Raises:
        InputError: a table names no tokens; there is no feature, or one that the model lacks.
    """
    for table in found:
        missing = {"sample", "token"} - set(table)
        if missing:
            raise InputError(
                f"trace: a table without the column {sorted(missing)[0]!r} names no tokens; give "
                "what find_massive_activations or find_sinks returned."
            )
    own = {int(f) for table in found if "feature" in table for f in table["feature"]}
    features = tuple(sorted({int(f) for f in given} if given is not None else own))
    if not features:
        raise InputError(
            "trace: the tables name no feature (nothing massive was found, or they are tables of "
            "sinks); give features=, or find_massive_activations(record, ratio=) with a lower "
            "ratio."
        )
    outside = [feature for feature in features if not 0 <= feature < width]
    if outside:
        raise InputError(
            f"trace: feature {outside[0]} is outside 0 to {width - 1}, the features of this "
            "model; give tables that were found on it."
        )
    return features


def refuse_layers(layers: Sequence[int] | None, count: int) -> None:
    """Refuse layers that a model of ``count`` layers lacks.

    Raises:
        InputError: there is one.
    """
    outside = [layer for layer in layers or () if not 0 <= layer < count]
    if outside:
        raise InputError(
            f"trace: there is no layer {outside[0]}; the model's layers are 0 to {count - 1}."
        )


def named_pairs(
    found: Sequence[pd.DataFrame], sample: int, features: Sequence[int]
) -> set[tuple[int, int]]:
    """The tokens and features that the tables name; a table without features names all of them."""
    pairs: set[tuple[int, int]] = set()
    for table in found:
        own = table.loc[table["sample"] == sample]
        if "feature" in own:
            pairs |= set(zip(own["token"].tolist(), own["feature"].tolist(), strict=True))
        else:
            pairs |= {(token, feature) for token in own["token"].tolist() for feature in features}
    return pairs


def named_tokens(found: Sequence[pd.DataFrame], sample: int, layout: TokenLayout) -> set[int]:
    """The tokens of a sample that the tables name.

    Raises:
        InputError: the sample has no such token, or it is another than the table says.
    """
    tokens: set[int] = set()
    for table in found:
        own = table.loc[table["sample"] == sample]
        here = [int(token) for token in own["token"]]
        labels = own["label"].tolist() if "label" in own else [None] * len(here)
        for token, label in zip(here, labels, strict=True):
            _refuse_other(token, label, sample, layout)
        tokens |= set(here)
    return tokens


def ordinary_tokens(count: int, named: set[int], layout: TokenLayout) -> set[int]:
    """Tokens that no table names, evenly spread; never the reference."""
    free = [t for t in range(len(layout)) if t not in named and t != layout.reference]
    if not free or not count:
        return set()
    chosen = np.linspace(0, len(free) - 1, min(count, len(free))).round().astype(int)
    return {free[i] for i in chosen}


def _refuse_other(token: int, label: str | None, sample: int, layout: TokenLayout) -> None:
    if not 0 <= token < len(layout):
        raise InputError(
            f"trace: the tables name token {token} of sample {sample}, which has {len(layout)} "
            "tokens; give the data that they were found on, in the same order."
        )
    if label is not None and layout.labels[token] != label:
        raise InputError(
            f"trace: the tables call token {token} of sample {sample} {label!r}, but here it is "
            f"{layout.labels[token]!r}; give the data that they were found on, in the same order."
        )
