"""Massive features that others have published, with sources; which models' sets are found here.

The table ships with the package (``assets/published_features.csv``). ``mark`` says how far a row
can be trusted: "measured" (in a committed result file of the source), "read in code" (a constant of
the source's code), "excerpt" (seen in an excerpt of the paper), "figure" (read by eye from a
figure), "secondary" (from a third party; not checked against its source).
"""

from collections.abc import Iterable
from functools import cache
from importlib import resources
from io import StringIO
from math import comb
from typing import Any

import numpy as np
import pandas as pd

from sinkscope.analysis.stability import as_massive
from sinkscope.errors import InputError
from sinkscope.record import Record

__all__ = ["MARKS", "match_published", "published_features"]

MARKS = ("measured", "read in code", "excerpt", "figure", "secondary")
"""How far a row can be trusted, the best first."""

_WHOLE = {"layer": "Int64", "feature": "Int64", "neuron": "Int64"}
_NUMBERS = {"magnitude": "float64", "std": "float64"}


def published_features(model: str | None = None) -> pd.DataFrame:
    """Massive features, and the neurons that write them, published for public checkpoints.

    Args:
        model: only models whose name contains this, in any case; None for all.

    Returns:
        ``model``, ``layer`` (0-based block whose output has it first, or in which the neuron is),
        ``feature`` (empty where only a neuron, or nothing, was found), ``neuron`` (of the down
        projection, that writes it), ``magnitude`` (|x| at that layer) and its ``std``, ``bos``
        (whether BOS was prepended: "yes", "no", "any", or "" where it is not told), ``token`` (that
        holds it), ``mark`` (one of ``MARKS``), ``source``, ``note``.

    Raises:
        InputError: if no model is called so.

    Examples:
        >>> table = published_features("Llama-3.2-1B")
        >>> measured = table[(table["mark"] == "measured") & (table["bos"] == "yes")]
        >>> measured["feature"].tolist(), measured["magnitude"].tolist()
        ([400, 698, 1159, 2029], [217.0, 210.0, 195.0, 208.0])
    """
    table = _whole_table().copy()
    if model is not None:
        named = table["model"].str.casefold().str.contains(model.casefold(), regex=False)
        if not named.any():
            raise InputError(
                f"published_features: no model is called like {model!r}; the table has "
                f"{', '.join(dict.fromkeys(table['model']))}."
            )
        table = table.loc[named].reset_index(drop=True)
    table.attrs = {"table": "published_features"}
    return table


def match_published(
    massive: Record | pd.DataFrame | Iterable[int], *, d_model: int | None = None
) -> pd.DataFrame:
    """The published models whose massive features are among those that were found.

    A match is a hint that a model stems from another, never a proof: compare with the suspected
    base itself (``compare_features``). Models of one family, and all that were fine-tuned from
    one, share their sets; a set of one or two small numbers can agree by chance, and there are
    many sets to agree with.

    Args:
        massive: a record, what ``find_massive_activations`` returned, or feature indices.
        d_model: width of the model at hand; a record knows it.

    Returns:
        One row a model and published set that shares at least one feature, the best Jaccard
        first: ``model``, ``published`` and ``overlap`` (features), ``n_published n_found
        n_overlap``, ``jaccard``, ``contained`` (whether all that were published are found),
        ``expected`` (how many a set of this size shares by chance, ``n_found * n_published /
        d_model``), ``chance`` (probability that at least so many are shared by chance,
        hypergeometric; one set looked at alone), both NaN where the width is unknown; ``marks``
        and ``sources``. Sets with a number beyond the width are left out.

    Raises:
        InputError: if a feature is outside the width, or the table is another one.
    """
    width = _width(massive) if d_model is None else d_model
    found = _features(massive)
    if found and (min(found) < 0 or max(found) >= (width or np.inf)):
        raise InputError(
            f"match_published: features {min(found)} to {max(found)} do not fit a width of "
            f"{width}; give indices from 0 and the d_model of the model that they were found in."
        )
    sets = [(key, rows) for key, rows in _sets().items() if max(key[1]) < (width or np.inf)]
    columns = ("model", "published", "overlap", "n_published", "n_found", "n_overlap", "jaccard")
    more = ("contained", "expected", "chance", "marks", "sources")
    rows = [_row(key, of_set, found, width) for key, of_set in sets if found & key[1]]
    rows.sort(key=lambda row: (-row["jaccard"], -row["n_overlap"], row["model"]))
    table = pd.DataFrame(rows, columns=[*columns, *more])
    table.attrs = {
        "table": "published_match",
        "found": tuple(sorted(found)),
        "d_model": width,
        "compared": len(sets),
    }
    return table


@cache
def _whole_table() -> pd.DataFrame:
    asset = resources.files("sinkscope").joinpath("assets", "published_features.csv")
    text = StringIO(asset.read_text(encoding="utf-8"))
    table = pd.read_csv(text, dtype=str, keep_default_na=False)
    for name, kind in (_WHOLE | _NUMBERS).items():
        cells = [float(cell) if cell else None for cell in table[name]]
        table[name] = pd.Series(cells, dtype="float64").astype(kind)
    return table


def _sets() -> dict[tuple[str, frozenset[int]], pd.DataFrame]:
    """The published sets: of each source, model, BOS and token; equal ones are one."""
    table = _whole_table()
    table = table.loc[table["feature"].notna()]
    sets: dict[tuple[str, frozenset[int]], list[pd.DataFrame]] = {}
    for (model, *_), rows in table.groupby(["model", "source", "bos", "token"], sort=False):
        key = (str(model), frozenset(rows["feature"].tolist()))
        sets.setdefault(key, []).append(rows)
    return {key: pd.concat(of_set) for key, of_set in sets.items()}


def _features(massive: Record | pd.DataFrame | Iterable[int]) -> frozenset[int]:
    if isinstance(massive, Record | pd.DataFrame):
        massive = as_massive(massive, "match_published", {})["feature"].tolist()
    return frozenset(int(feature) for feature in massive)


def _width(massive: Record | pd.DataFrame | Iterable[int]) -> int | None:
    if isinstance(massive, Record):
        return massive.provenance.get("d_model")
    return massive.attrs.get("d_model") if isinstance(massive, pd.DataFrame) else None


def _row(
    key: tuple[str, frozenset[int]], of_set: pd.DataFrame, found: frozenset[int], width: int | None
) -> dict[str, Any]:
    model, published = key
    overlap, sizes = found & published, (len(published), len(found))
    return {
        "model": model,
        "published": tuple(sorted(published)),
        "overlap": tuple(sorted(overlap)),
        "n_published": sizes[0],
        "n_found": sizes[1],
        "n_overlap": len(overlap),
        "jaccard": len(overlap) / len(found | published),
        "contained": published <= found,
        "expected": np.nan if width is None else sizes[0] * sizes[1] / width,
        "chance": np.nan if width is None else _chance(len(overlap), *sizes, width),
        "marks": "; ".join(mark for mark in MARKS if mark in set(of_set["mark"])),
        "sources": "; ".join(dict.fromkeys(of_set["source"])),
    }


def _chance(overlap: int, published: int, found: int, width: int) -> float:
    """Probability that two random sets of these sizes share at least ``overlap`` numbers.

    Examples:
        >>> _chance(1, 1, 4, 16), _chance(0, 3, 3, 9)
        (0.25, 1.0)
    """
    ways = sum(
        comb(published, shared) * comb(width - published, found - shared)
        for shared in range(overlap, min(published, found) + 1)
    )
    return ways / comb(width, found)
