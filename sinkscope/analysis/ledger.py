"""The residual stream's book: what each block found, what its two parts added, what it left.

Depends on record. ``resid_post = resid_pre + attn_out + mlp_out``: whatever is missing from that is
an error of reading, and is shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sinkscope.analysis.tables import layers_of, token_table
from sinkscope.errors import SiteError
from sinkscope.record import Record

__all__ = ["Ledger", "residual_ledger"]

_SITES = ("resid_pre", "attn_out", "mlp_out", "resid_post")
_TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
_HALF_TOLERANCE = 3e-2


@dataclass(frozen=True, eq=False)
class Ledger:
    """The book of the traced tokens and features.

    Attributes:
        trace: where it is from.
        values: by site, ``[sample, layer, place, feature]``, float64; NaN where a sample has fewer
            places.
        found: which ``[sample, place, feature]`` a table named, as opposed to ordinary tokens.
        features: number of the feature at each place of its axis.
        layers: number of the layer at each place of its axis.
    """

    trace: Record
    values: Mapping[str, np.ndarray]
    found: np.ndarray
    features: list[int]
    layers: list[int]

    def path(self, sample: int, place: int, feature: int) -> dict[str, np.ndarray]:
        """The values of one feature of one token over the layers, by site."""
        return {site: values[sample, :, place, feature] for site, values in self.values.items()}

    @property
    def unexplained(self) -> np.ndarray:
        """What is left of a block's change when both parts are taken away."""
        v = self.values
        return v["resid_post"] - v["resid_pre"] - v["attn_out"] - v["mlp_out"]

    def relative_error(self) -> float:
        """The largest unexplained change, relative to the largest value of its token."""
        sizes = np.stack([np.abs(values) for values in self.values.values()])
        size = sizes.max(axis=(0, 2, 4))[:, None, :, None]
        share = np.abs(self.unexplained) / np.maximum(size, 1e-12)
        return float(np.nanmax(share, initial=0.0))

    def refuse_unexplained(self) -> None:
        """Refuse a book that does not close.

        Raises:
            SiteError: if more is missing than rounding explains.
        """
        error = self.relative_error()
        dtype = str(self.trace.provenance.get("dtype", "float32"))
        if error > _TOLERANCE.get(dtype, _HALF_TOLERANCE):
            name = self.trace.provenance.get("subject", "this model")
            raise SiteError(
                f"trace_origin: in {name} attention and MLP do not explain what a block changes "
                f"({error:.1%} of the largest value is missing): its blocks normalise or add "
                "something else, or its stream was edited, so births have no author there."
            )

    def table(self) -> pd.DataFrame:
        """One row a sample, traced token, feature and layer, with ``unexplained``."""
        present = np.isfinite(self.values["resid_post"])
        sample, layer, place, feature = cells = np.nonzero(present)
        token = self.trace["traced_token"].values[sample, place]
        columns = {
            "feature": np.array(self.features, np.int64)[feature],
            "is_found": self.found[sample, place, feature],
            **{site: values[cells] for site, values in self.values.items()},
            "unexplained": self.unexplained[cells],
        }
        attrs = {"table": "residual_ledger", "relative_error": self.relative_error()}
        return token_table(self.trace, (sample, layer, token), self.layers, columns, attrs=attrs)


def residual_ledger(trace: Record) -> Ledger:
    """The book of a trace."""
    axes = ("sample", "layer", "place", "feature")
    arrays = {site: trace[f"picked_{site}"].transpose(*axes) for site in _SITES}
    values = {site: array.values.astype(np.float64) for site, array in arrays.items()}
    features = [int(feature) for feature in arrays["resid_post"]["feature"].values]
    layers = layers_of(arrays["resid_post"])
    real = np.isfinite(values["resid_post"]).all(axis=1)
    named = trace["is_found"].transpose("sample", "place", "feature").values.astype(bool) & real
    return Ledger(trace, values, named, features, layers)
