"""What the routers of a record decided: who was chosen, with which gate. Depends on record.

A mixture of Matryoshka experts (MoME, arXiv 2510.04136) gives every token its ``top_k`` most
probable routed experts. A record holds the probabilities; how many are chosen, and how their gates
are scaled, its provenance says. Shared experts work for every token and are in no share.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from sinkscope.analysis.tables import layers_of
from sinkscope.errors import InputError
from sinkscope.record import Record

__all__ = ["ALL", "Routed", "routed_tokens", "segments_of", "token_mask"]

ALL = "all"
"""In place of a segment: all tokens."""


@dataclass(frozen=True, eq=False)
class Routed:
    """The routing of every token.

    Attributes:
        probabilities: of the routed experts; NaN where a sample has no such token.
        chosen: true at the experts that a token gets.
        gates: what each routed expert's output is multiplied by; 0 where it was not chosen.
        layers: 0-based number of each layer.
        top_k: how many experts a token gets.
    """

    probabilities: Float[np.ndarray, "sample layer token expert"]
    chosen: Bool[np.ndarray, "sample layer token expert"]
    gates: Float[np.ndarray, "sample layer token expert"]
    layers: tuple[int, ...]
    top_k: int

    @property
    def experts(self) -> int:
        """Routed experts of a layer."""
        return self.probabilities.shape[-1]


def routed_tokens(record: Record) -> Routed:
    """Who was chosen for every token of a record.

    Where several probabilities are equal at the edge of the chosen ones, the first expert wins.

    Raises:
        SiteError: the record holds no router.
        InputError: its provenance does not say how many experts a token gets.
    """
    router = record["router"].transpose("sample", "layer", "token", "expert")
    settings = _settings(record, router)
    probabilities = router.values.astype(np.float64)
    top_k = int(settings["top_k"])
    order = np.argsort(-np.nan_to_num(probabilities, nan=-1.0), axis=-1, kind="stable")
    chosen = np.zeros(probabilities.shape, bool)
    np.put_along_axis(chosen, order[..., :top_k], True, axis=-1)
    chosen &= ~np.isnan(probabilities)
    gates = np.where(chosen, probabilities, 0.0)
    if settings.get("renormalise", True) or settings.get("softmax") == "selected":
        sums = gates.sum(-1, keepdims=True)
        gates = np.divide(gates, sums, out=np.zeros_like(gates), where=sums > 0)
    return Routed(probabilities, chosen, gates, tuple(layers_of(router)), top_k)


def segments_of(record: Record) -> list[str]:
    """``"all"``, then the segments that some sample has, in the order in which they come."""
    found = (segment for layout in record.layouts for segment in layout.segments)
    return [ALL, *dict.fromkeys(found)]


def token_mask(record: Record, segment: str, length: int) -> Bool[np.ndarray, "sample token"]:
    """True at the tokens of a segment, padding never; ``length`` tokens wide."""
    mask = np.zeros((len(record), length), bool)
    for row, layout in zip(mask, record.layouts, strict=True):
        row[: len(layout)] = layout.is_real if segment == ALL else layout.mask(segment)
    return mask


def _settings(record: Record, router: xr.DataArray) -> Mapping[str, Any]:
    settings = record.provenance.get("mome") or record.provenance.get("mixture")
    experts = router.sizes["expert"]
    top_k = settings.get("top_k") if isinstance(settings, Mapping) else None
    if not isinstance(top_k, int) or not 1 <= top_k <= experts:
        raise InputError(
            f"The record holds a router of {experts} experts, but its provenance does not say how "
            f"many of them a token gets (top_k is {top_k!r}): it is from an older version, or its "
            "model does not simply choose the most probable; keep the site expert_gates."
        )
    return settings  # pyright: ignore[reportReturnType]
