"""The attention map of a layer, from whole kept maps or from bins. Depends on the record."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

from sinkscope.errors import InputError
from sinkscope.record import Record

__all__ = ["AttentionGrid", "attention_grid", "has_map"]


@dataclass(frozen=True, eq=False)
class AttentionGrid:
    """Attention weights on a square grid.

    Attributes:
        values: mean weight of each cell, row the query; NaN where no query sees a key.
        width: how many tokens a cell is wide.
        averaging: which head, or the mean over how many.
    """

    values: Float[np.ndarray, "query key"]
    width: int
    averaging: str

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top in tokens, a token being one wide and centred at its index."""
        end = len(self.values) * self.width - 0.5
        return (-0.5, end, end, -0.5)


def has_map(record: Record, layer: int) -> bool:
    """Whether a record holds a map of the layer, whole or in bins."""
    return any(
        name in record and layer in record[name]["layer"] for name in ("pattern", "pattern_bins")
    )


def attention_grid(record: Record, *, sample: int, layer: int, head: int | None) -> AttentionGrid:
    """One layer's map, whole where it was kept, otherwise in bins.

    Raises:
        SiteError: if the record holds neither.
        InputError: if it does not hold that layer or head.
    """
    whole = "pattern_bins" not in record or ("pattern" in record and layer in _layers(record))
    name = "pattern" if whole else "pattern_bins"
    maps = record[name].isel(sample=sample)
    _refuse_layer(maps, layer)
    one = maps.sel(layer=layer)
    chosen, averaging = _of_head(one, head)
    length = len(record.layouts[sample])
    if whole:
        values = chosen.transpose("query", "key").values[:length, :length]
        seen = _visible(record, sample, layer)[:length, :length]
        return AttentionGrid(np.where(seen, values, np.nan).astype(np.float64), 1, averaging)
    pairs = record["pattern_bin_pairs"].isel(sample=sample).sel(layer=layer)
    width = int(record["pattern_bin_width"].isel(sample=sample).sel(layer=layer))
    cells = -(-length // width)
    axes = ("query_bin", "key_bin")
    sums = chosen.transpose(*axes).values[:cells, :cells].astype(np.float64)
    counts = pairs.transpose(*axes).values[:cells, :cells].astype(np.float64)
    means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return AttentionGrid(means, width, averaging)


def _visible(record: Record, sample: int, layer: int) -> np.ndarray:
    """Which query sees which key, as the record says; where it does not, as its model's do."""
    if "visible" not in record:
        length = len(record.layouts[sample])
        both_ways = record.provenance.get("causal") is False
        return np.ones((length, length), bool) if both_ways else np.tri(length, dtype=bool)
    visible = record["visible"].isel(sample=sample).sel(layer=layer)
    return visible.transpose("query", "key").values > 0


def _layers(record: Record) -> list[int]:
    return [int(layer) for layer in record["pattern"]["layer"]]


def _refuse_layer(maps: xr.DataArray, layer: int) -> None:
    kept = [int(one) for one in maps["layer"]]
    if layer not in kept:
        names = ", ".join(map(str, kept))
        raise InputError(f"attention_map: no map of layer {layer} was kept; choose one of {names}.")


def _of_head(maps: xr.DataArray, head: int | None) -> tuple[xr.DataArray, str]:
    """One head's map or the mean over heads, and which in words."""
    if "head" not in maps.dims:
        if head is not None:
            raise InputError(
                f"attention_map: only the mean over heads was kept, not head {head}; record again "
                "and keep the maps of all heads."
            )
        return maps, "mean over heads"
    heads = maps.sizes["head"]
    if head is None:
        return maps.mean("head"), f"mean over {heads} heads"
    if not 0 <= head < heads:
        raise InputError(f"attention_map: no head {head}; there are 0 to {heads - 1}.")
    return maps.isel(head=head), f"head {head}"
