"""The activations of one layer that a record knows: all of them, or the largest of each token.

Depends on the record.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from sinkscope.plots.captions import refuse_sample
from sinkscope.plots.found import refuse_layer
from sinkscope.record import Record

__all__ = ["Tallest", "tallest"]


@dataclass(frozen=True, eq=False)
class Tallest:
    """|x| of one layer's resid_post, as a list of cells.

    Attributes:
        token: the token of each cell.
        feature: its feature.
        magnitude: its |x|.
        median: median |x| of the layer.
        kept: how many features of each token are known; None if all are.
    """

    token: Int[np.ndarray, " cell"]
    feature: Int[np.ndarray, " cell"]
    magnitude: Float[np.ndarray, " cell"]
    median: float
    kept: int | None

    @property
    def words(self) -> str:
        """What a reader must know of cells that are not shown."""
        return "" if self.kept is None else f"each token's {self.kept} largest known"

    def features(self, count: int) -> list[int]:
        """The features with the largest |x| anywhere, in ascending order."""
        order = np.argsort(-self.magnitude, kind="stable")
        largest = dict.fromkeys(self.feature[order].tolist())
        return sorted(list(largest)[:count])

    def grid(self, features: list[int], tokens: int) -> Float[np.ndarray, "feature token"]:
        """|x| of the chosen features, NaN where it is not known."""
        cells = np.full((len(features), tokens), np.nan)
        rows = {feature: row for row, feature in enumerate(features)}
        for token, feature, value in zip(self.token, self.feature, self.magnitude, strict=True):
            if int(feature) in rows:
                cells[rows[int(feature)], token] = value
        return cells


def tallest(record: Record, *, layer: int, sample: int, where: str) -> Tallest:
    """Read one layer from kept ``resid_post``, else from ``top_value`` and ``top_feature``.

    Raises:
        InputError: if there is no such sample or layer.
        SiteError: if the record holds neither.
    """
    refuse_sample(record, sample, where=where)
    own = record.sample(sample)
    median = own["median"].isel(sample=0)
    refuse_layer(layer, [int(one) for one in median["layer"]], where=where)
    middle = float(median.sel(layer=layer))
    if "resid_post" in own and layer in own["resid_post"]["layer"]:
        states = own["resid_post"].isel(sample=0).sel(layer=layer).transpose("token", "feature")
        token, feature = (axis.ravel() for axis in np.indices(states.shape))
        return Tallest(token, feature, np.abs(states.values.astype(float)).ravel(), middle, None)
    values = own["top_value"].isel(sample=0).sel(layer=layer).transpose("token", "rank")
    features = own["top_feature"].isel(sample=0).sel(layer=layer).transpose("token", "rank")
    token = np.repeat(np.arange(values.sizes["token"]), values.sizes["rank"])
    magnitude = np.abs(values.values.astype(float)).ravel()
    known = np.isfinite(magnitude)
    feature = features.values.ravel()[known].astype(np.int64)
    return Tallest(token[known], feature, magnitude[known], middle, values.sizes["rank"])
