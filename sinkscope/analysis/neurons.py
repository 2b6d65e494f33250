"""Which neurons write a feature of a token: ranked by what they add, never by their activation.

Depends on record. A neuron with a huge activation may write nothing on the feature; a neuron's
contribution is its activation times its weight to that feature. Experts beside an MLP are no part
of what its neurons add.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from sinkscope.analysis.ledger import experts_beside
from sinkscope.analysis.tables import layers_of, token_table
from sinkscope.record import Record

__all__ = ["rank_neurons"]

_NUMBERS = (
    "rank",
    "neuron",
    "contribution",
    "share",
    "cumulative",
    "weight",
    "gate",
    "up",
    "act",
    "gate_others",
    "up_others",
    "act_others",
    "same_gate_sign",
)
_WHOLE = ("rank", "neuron")
_ROUNDING = {"float64": 1e-12, "float32": 1e-5}
_HALF_ROUNDING = 1e-2


def rank_neurons(
    trace: Record, cells: np.ndarray, layers: Sequence[int] | np.ndarray, *, count: int = 10
) -> pd.DataFrame:
    """The neurons that add most to features of tokens, in the direction of what the MLP added.

    Args:
        trace: what ``trace`` returned.
        cells: ``(sample, place, feature)`` of each, as places on the trace's axes.
        layers: the layer of each.
        count: neurons to list of each.

    Returns:
        The columns that ``trace_origin`` names. A layer whose neurons could not be read gives no
        row.
    """
    reader = _Reader(trace)
    parts: list[dict[str, np.ndarray]] = [dict.fromkeys(_NUMBERS, np.empty(0))]
    where: list[tuple[int, int, int, int]] = []
    for (sample, place, feature), layer in zip(cells.tolist(), layers, strict=True):
        ranked = reader.ranking(sample, place, feature, int(layer), count)
        if ranked is None:
            continue
        token = int(trace["traced_token"].values[sample, place])
        where += [(sample, int(layer), token, reader.features[feature])] * len(ranked["rank"])
        parts.append(ranked)
    place = np.array(where, np.int64).reshape(-1, 4)
    columns: dict[str, object] = {"feature": place[:, 3]}
    for name in _NUMBERS:
        kind = np.int64 if name in _WHOLE else np.float64
        columns[name] = np.concatenate([part[name] for part in parts]).astype(kind)
    every = range(max((int(layer) for layer in layers), default=0) + 1)
    attrs = {"table": "neurons", "unreadable": dict(trace.provenance.get("unreadable", {}))}
    return token_table(trace, (place[:, 0], place[:, 1], place[:, 2]), every, columns, attrs=attrs)


class _Reader:
    """The neurons of a trace, read one token, feature and layer at a time."""

    def __init__(self, trace: Record) -> None:
        axes = ("sample", "layer", "place", "neuron")
        self.features = [int(f) for f in trace["picked_mlp_out"]["feature"].values]
        self._mlp_out = _of_neurons(trace)
        self._inside = {
            name: trace[f"picked_mlp_{name}"].transpose(*axes)
            for name in ("gate", "up", "act")
            if f"picked_mlp_{name}" in trace
        }
        readable = "down_weight" in trace
        self._weight = trace["down_weight"] if readable else None
        self._bias = trace["down_bias"] if readable else None
        self._rounding = _ROUNDING.get(str(trace.provenance.get("dtype")), _HALF_ROUNDING)
        found = np.asarray(trace["is_found"].values.any(axis=-1), bool)
        counts = trace["places"].values
        inside = np.arange(trace.dataset.sizes["place"]) < counts[:, None]
        self._others = ~found & inside

    def ranking(
        self, sample: int, place: int, feature: int, layer: int, count: int
    ) -> dict[str, np.ndarray] | None:
        """The largest contributions, by column; None where the layer could not be read."""
        if self._weight is None or self._bias is None or "act" not in self._inside:
            return None
        if layer not in layers_of(self._weight) or layer not in layers_of(self._inside["act"]):
            return None
        weight = _at(self._weight, layer)[feature]
        act = self._row("act", sample, layer)
        added = float(_at(self._mlp_out, layer, sample)[place, feature])
        raw = weight * act[place]
        total = raw.sum() + float(_at(self._bias, layer)[feature])
        contribution = raw * self._scale(added, total, float(np.abs(raw).sum()))
        order = np.argsort(-contribution * (np.sign(added) or 1.0), kind="stable")[:count]
        share = contribution[order] / added if added else np.full(len(order), np.nan)
        return {
            "rank": np.arange(len(order)),
            "neuron": order,
            "contribution": contribution[order],
            "share": share,
            "cumulative": np.cumsum(share),
            "weight": weight[order],
            **self._side_by_side(sample, layer, place, order),
        }

    def _scale(self, added: float, total: float, size: float) -> float:
        """What a family multiplies by before it adds; 1 where rounding explains the difference."""
        if abs(added - total) <= self._rounding * size:
            return 1.0
        return added / total if total else np.nan

    def _side_by_side(
        self, sample: int, layer: int, place: int, order: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Gate, up and act of the token, and their medians over the ordinary ones."""
        missing = np.full(len(order), np.nan)
        shown: dict[str, np.ndarray] = {"same_gate_sign": missing}
        others = self._others[sample]
        for name in ("gate", "up", "act"):
            shown[name] = shown[f"{name}_others"] = missing
            array = self._inside.get(name)
            if array is None or layer not in layers_of(array):
                continue
            values = self._row(name, sample, layer)[:, order]
            shown[name] = values[place]
            if others.any():
                shown[f"{name}_others"] = np.median(values[others], axis=0)
            if name == "gate" and others.any():
                same = np.sign(values[others]) == np.sign(values[place])
                shown["same_gate_sign"] = same.mean(axis=0)
        return shown

    def _row(self, name: str, sample: int, layer: int) -> np.ndarray:
        values = _at(self._inside[name], layer, sample)
        return values[:, : self._width(layer)]

    def _width(self, layer: int) -> int | None:
        return None if self._weight is None else _at(self._weight, layer).shape[-1]


def _of_neurons(trace: Record) -> xr.DataArray:
    """What the MLPs add, without experts beside them."""
    whole = trace["picked_mlp_out"]
    if experts_beside(trace) != "mlp":
        return whole
    return whole - trace["picked_expert_out"].reindex_like(whole).fillna(0)


def _at(array: xr.DataArray, layer: int, sample: int | None = None) -> np.ndarray:
    chosen = array.sel(layer=layer)
    if sample is not None:
        chosen = chosen.isel(sample=sample)
    return chosen.values.astype(np.float64)
