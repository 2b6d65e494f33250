"""What else marks a sink: massive activations, the direction of BOS, a drained value, phi.

Each criterion is an array of the dims ``sample layer token``, NaN where the record does not hold
what it needs. Depends on record; numpy and xarray only.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from sinkscope.analysis.tables import check_number, references
from sinkscope.record import Record

__all__ = [
    "DEFAULT_RATIO",
    "bos_cosine",
    "massive_ratio",
    "ratio_to_median",
    "sink_phi",
    "value_norm_ratio",
]

DEFAULT_RATIO = 1000.0
"""Ratio to the median from which an activation is massive, where the subject has none of its own
(Sun et al., arXiv 2402.17762)."""

_AXES = ("sample", "layer", "token")


def massive_ratio(record: Record, ratio: int | float | None = None) -> tuple[float, str]:
    """The ratio to use, and where it comes from: "given", "the subject's own" or "default".

    Raises:
        InputError: if the given ratio is not above 0.
    """
    if ratio is not None:
        check_number("ratio", ratio)
        return float(ratio), "given"
    if record.massive_ratio is not None:
        return float(record.massive_ratio), "the subject's own"
    return DEFAULT_RATIO, "default"


def ratio_to_median(record: Record) -> xr.DataArray:
    """Each token's largest |x| of resid_post, as a ratio to the layer's median |x|."""
    top = record["top_value"].astype(np.float64)
    largest = top.copy(data=np.abs(top.values)).max("rank")
    return (largest / record["median"]).transpose(*_AXES)


def bos_cosine(record: Record) -> xr.DataArray:
    """Cosine of each token's resid_post to that of the reference token."""
    return record["bos_cosine"].transpose(*_AXES)


def value_norm_ratio(record: Record) -> xr.DataArray:
    """Norm of each token's value (mean over key-value heads) to the median of the other tokens'.

    Far below 1 is the value drain of Guo et al. (arXiv 2410.13835).
    """
    norms = record["value_norm"].mean("kv_head").transpose(*_AXES).astype(np.float64)
    ratios = np.full(norms.shape, np.nan)
    for sample, layout in enumerate(record.layouts):
        real = np.flatnonzero(layout.is_real)
        for layer in range(norms.shape[1]):
            values = norms.values[sample, layer, real]
            ratios[sample, layer, real] = values / _median_of_others(values)
    return norms.copy(data=ratios)


def sink_phi(
    record: Record, *, features: Mapping[int, list[int]] | None = None
) -> xr.DataArray | None:
    """The score of VAR (Kang et al., arXiv 2503.03321): ``max_d |x[d]| / rms(x)`` over sink dims.

    The features are those given for a layer, or else the three largest of the reference token
    there: a token that does not hold them among its largest scores 0.

    Args:
        record: needs ``top_value``, ``top_feature``, ``norm`` and the model's width.
        features: the sink dims of each layer.

    Returns:
        Dims ``sample layer token``; None where the record does not say the model's width.
    """
    width = record.provenance.get("d_model")
    if width is None and "resid_post" in record:
        width = record["resid_post"].sizes["feature"]
    if width is None:
        return None
    axes = (*_AXES, "rank")
    held = record["top_feature"].transpose(*axes)
    value = np.abs(record["top_value"].transpose(*axes).values.astype(np.float64))
    chosen = np.zeros(held.shape, bool)
    reference = references(record)
    for place, layer in enumerate(held["layer"].values.tolist()):
        for sample in range(len(record)):
            own = held.values[sample, place, reference[sample], :3]
            wanted = own if features is None else np.array(features.get(layer, []))
            chosen[sample, place] = np.isin(held.values[sample, place], wanted)
    peak = held.isel(rank=0, drop=True).astype(np.float64)
    peak = peak.copy(data=np.where(chosen, value, 0).max(-1))
    rms = np.sqrt(record["norm"].astype(np.float64) ** 2 / width + 1e-6)
    return (peak / rms).transpose(*_AXES)


def _median_of_others(values: np.ndarray) -> np.ndarray:
    """For every entry the median of the rest, from one sort; NaN where there is no rest.

    The rest of a sorted list has its gap at the entry's own rank, so its i-th entry is the list's
    i-th below the gap and (i+1)-th from there on.
    """
    rest = len(values) - 1
    if rest < 1:
        return np.full(len(values), np.nan)
    order = np.sort(values)
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    low, high = (rest - 1) // 2, rest // 2
    return (order[low + (low >= rank)] + order[high + (high >= rank)]) / 2
