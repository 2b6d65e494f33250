"""Do the signs of a sink agree? Jaccard between detectors. Depends on record.

Attention, massive features, the direction of BOS, a drained value and VAR's phi are often shown as
confirmations of each other; once massive features exist they are nearly one variable, and where
they are not, it should be seen.
"""

from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from sinkscope.analysis.criteria import (
    bos_cosine,
    massive_ratio,
    ratio_to_median,
    sink_phi,
    value_norm_ratio,
)
from sinkscope.analysis.tables import layers_of, make_table, references
from sinkscope.analysis.verdict import sink_attention
from sinkscope.errors import InputError
from sinkscope.glossary import paper_layer
from sinkscope.record import Record

__all__ = ["detector_agreement", "detectors"]


def detectors(
    record: Record,
    *,
    threshold: float = 0.3,
    ratio: int | float | None = None,
    cosine: float = 0.8,
    drain: float = 0.5,
    phi: int | float = 20.0,
    state: Literal["entering", "leaving"] = "entering",
) -> tuple[dict[str, xr.DataArray], dict[str, str]]:
    """What each detector flags, on the tokens that enough queries see, and its rule in words.

    Args:
        record: one or several samples.
        threshold: key attention, and half of the heads (``find_sinks``).
        ratio: massive from this multiple of the median on; None: the subject's own, else 1000.
        cosine: cosine to the reference token, which itself always passes.
        drain: value norm as a share of the others' median.
        phi: the tau of VAR (Kang et al., arXiv 2503.03321), 20 there; rarely reached in narrow
            models, where phi is at most the root of the width.
        state: which residual state of a layer ``massive``, ``cosine`` and ``phi`` look at: the one
            that enters it, which its attention reads (there is none for the first recorded
            layer, which is left out), or the one that leaves it.

    Returns:
        ``attention``, and those of ``massive cosine value_drain phi`` that the record can give:
        booleans ``sample layer token``, False at tokens that attention cannot judge; and their
        rules in words.

    Raises:
        InputError: if a threshold is outside its range, or no entering state was recorded.
    """
    found = sink_attention(record, threshold=threshold)
    used, source = massive_ratio(record, ratio)
    later = {"entering": 1, "leaving": 0}[state]
    wanted = {
        "massive": (
            ("top_value", "median"),
            later,
            lambda: ratio_to_median(record) >= used,
            f"≥ {used:g} × median ({source})",
        ),
        "cosine": (("bos_cosine",), later, lambda: bos_cosine(record) > cosine, f"> {cosine:g}"),
        "value_drain": (
            ("value_norm",),
            0,
            lambda: value_norm_ratio(record) < drain,
            f"< {drain:g} × median",
        ),
        "phi": (("top_value", "norm"), later, lambda: _phi_above(record, phi), f"> {phi:g}"),
    }
    flags = {"attention": found.is_sink}
    rules = {"attention": f"head mean > {threshold:g}, or half of the heads"}
    for name, (needs, shift, measure, rule) in wanted.items():
        verdict = measure() if set(needs) <= set(record) else None
        if verdict is not None:
            flags[name], rules[name] = _judged(found.judged, verdict, shift), rule
    return {
        name: flag.sel(layer=_comparable(found.is_sink, later)) for name, flag in flags.items()
    }, rules


def detector_agreement(
    record: Record, *, per_layer: bool = False, **thresholds: Any
) -> pd.DataFrame:
    """How far each pair of detectors flags the same tokens.

    Args:
        record: one or several samples.
        per_layer: one row a layer and pair; otherwise over all layers.
        thresholds: those of :func:`detectors`.

    Returns:
        (``layer paper_layer``), ``first second``, ``n_first n_second n_both n_union`` (tokens in
        layers, over all samples), ``jaccard`` (both / union; NaN if neither flags any),
        ``jaccard_without_reference`` (BOS left out, which most detectors flag), ``first_rule
        second_rule``.
    """
    flags, rules = detectors(record, **thresholds)
    layers = layers_of(flags["attention"])
    places = [[i] for i in range(len(layers))] if per_layer else [list(range(len(layers)))]
    length = flags["attention"].sizes["token"]
    others = (references(record)[:, None] != np.arange(length))[:, None, :]
    rows = []
    for place in places:
        for first, second in combinations(flags, 2):
            a, b = (flags[name].values[:, place] for name in (first, second))
            row = {"layer": layers[place[0]], "paper_layer": paper_layer(layers[place[0]])}
            row = row if per_layer else {}
            row |= {"first": first, "second": second, "n_first": int(a.sum())}
            row |= {"n_second": int(b.sum()), "n_both": int((a & b).sum())}
            row |= {"n_union": int((a | b).sum()), "jaccard": _jaccard(a, b)}
            row["jaccard_without_reference"] = _jaccard(a & others, b & others)
            rows.append(row | {"first_rule": rules[first], "second_rule": rules[second]})
    return make_table(pd.DataFrame(rows), record, {"table": "detector_agreement", "rules": rules})


def _comparable(is_sink: xr.DataArray, later: int) -> list[int]:
    """The layers whose state was recorded: for the state that enters, those with one before."""
    layers = layers_of(is_sink)
    kept = [layer for layer in layers if layer - later in layers]
    if not kept:
        raise InputError(
            f"detectors: no layer of {layers} has the one before it, so no state that enters a "
            "layer was recorded; record neighbouring layers or choose state='leaving'."
        )
    return kept


def _phi_above(record: Record, phi: int | float) -> xr.DataArray | None:
    score = sink_phi(record)
    return None if score is None else score > phi


def _judged(judged: xr.DataArray, verdict: xr.DataArray, later: int) -> xr.DataArray:
    """A detector's verdict, ``later`` layers on, on the tokens that attention can judge."""
    shifted = verdict.astype(np.float64).assign_coords(layer=verdict["layer"] + later)
    flags = shifted.reindex(layer=judged["layer"].values).transpose(*judged.dims)
    return judged.copy(data=(flags.values == 1) & judged.values)


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else float("nan")
