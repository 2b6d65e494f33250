"""The residual stream's book: what each block found, what its parts added, what it left.

Depends on record. ``resid_post = resid_pre + attention + mlp + experts``: whatever is missing from
that is an error of reading, and is shown. What a model adds between two blocks
(Qwen3-VL's DeepStack does) is the difference of ``resid_pre`` to what the block before left.

Experts are those of a mixture (MoME, arXiv 2510.04136). Beside the attention or the MLP, what they
add is in ``attn_out`` or ``mlp_out`` too, and is taken out of it here, so that every part is
counted once.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sinkscope.analysis.tables import layers_of, token_table
from sinkscope.errors import SiteError
from sinkscope.record import Record

__all__ = ["BETWEEN", "PARTS", "Ledger", "experts_beside", "residual_ledger"]

_SITES = ("resid_pre", "attn_out", "mlp_out", "resid_post")
_EXPERTS = "expert_out"
PARTS = {"mlp": "mlp_out", "attention": "attn_out", "experts": _EXPERTS}
"""The parts of a block, and the site where each is read."""
BETWEEN = "between blocks"
"""What is added to the stream after one block and before the next, by no block."""
_TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
_HALF_TOLERANCE = 3e-2


@dataclass(frozen=True, eq=False)
class Ledger:
    """The book of the traced tokens and features.

    Attributes:
        trace: where it is from.
        values: by site, ``[sample, layer, place, feature]``, float64; NaN where a sample has fewer
            places; ``expert_out`` only where there are mixtures of experts.
        found: which ``[sample, place, feature]`` a table named, as opposed to ordinary tokens.
        features: number of the feature at each place of its axis.
        layers: number of the layer at each place of its axis.
        beside: what the experts are beside: "attention", "mlp" or "layer"; "" without experts.
    """

    trace: Record
    values: Mapping[str, np.ndarray]
    found: np.ndarray
    features: list[int]
    layers: list[int]
    beside: str = ""

    def path(self, sample: int, place: int, feature: int) -> dict[str, np.ndarray]:
        """The values of one feature of one token over the layers, by site."""
        every = {**self.values, **self.parts}
        if self.adds_between:
            every[BETWEEN] = self.between
        return {name: values[sample, :, place, feature] for name, values in every.items()}

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """What "mlp", "attention" and, where there are any, "experts" add, each by itself."""
        added = {part: self.values[site] for part, site in PARTS.items() if site in self.values}
        if self.beside in added:
            added[self.beside] = added[self.beside] - added["experts"]
        return added

    @property
    def between(self) -> np.ndarray:
        """What enters a block beyond what the block before it left; 0 at layer 0."""
        found = np.zeros_like(self.values["resid_pre"])
        found[:, 1:] = self.values["resid_pre"][:, 1:] - self.values["resid_post"][:, :-1]
        return found

    @property
    def adds_between(self) -> bool:
        """Whether anything is added between blocks."""
        return bool(np.nan_to_num(self.between).any())

    @property
    def unexplained(self) -> np.ndarray:
        """What is left of a block's change when all its parts are taken away."""
        change = self.values["resid_post"] - self.values["resid_pre"]
        return change - sum(self.parts.values())

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
                f"trace_origin: in {name} {self._named()} do not explain what a block changes "
                f"({error:.1%} of the largest value is missing): its blocks normalise or add "
                "something else, or its stream was edited, so births have no author there."
            )

    def _named(self) -> str:
        return "attention, MLP and experts" if self.beside else "attention and MLP"

    def table(self) -> pd.DataFrame:
        """One row a sample, traced token, feature and layer, with ``unexplained``.

        ``between`` is what was added before the block; only where anything was.

        ``attn_out`` and ``mlp_out`` are the sites; ``attrs["experts_beside"]`` says in which of
        them ``expert_out`` is contained.
        """
        present = np.isfinite(self.values["resid_post"])
        sample, layer, place, feature = cells = np.nonzero(present)
        token = self.trace["traced_token"].values[sample, place]
        columns = {
            "feature": np.array(self.features, np.int64)[feature],
            "is_found": self.found[sample, place, feature],
            **{site: values[cells] for site, values in self.values.items()},
            **({"between": self.between[cells]} if self.adds_between else {}),
            "unexplained": self.unexplained[cells],
        }
        attrs = {
            "table": "residual_ledger",
            "relative_error": self.relative_error(),
            "experts_beside": self.beside,
        }
        return token_table(self.trace, (sample, layer, token), self.layers, columns, attrs=attrs)


def residual_ledger(trace: Record) -> Ledger:
    """The book of a trace.

    Raises:
        SiteError: it holds what experts add, but not what they are beside.
    """
    axes = ("sample", "layer", "place", "feature")
    arrays = {site: trace[f"picked_{site}"].transpose(*axes) for site in _SITES}
    values = {site: array.values.astype(np.float64) for site, array in arrays.items()}
    features = [int(feature) for feature in arrays["resid_post"]["feature"].values]
    layers = layers_of(arrays["resid_post"])
    real = np.isfinite(values["resid_post"]).all(axis=1)
    named = trace["is_found"].transpose("sample", "place", "feature").values.astype(bool) & real
    if f"picked_{_EXPERTS}" in trace:
        own = trace[f"picked_{_EXPERTS}"].transpose(*axes).reindex(layer=layers)
        added = np.nan_to_num(own.values.astype(np.float64))
        values[_EXPERTS] = np.where(np.isfinite(values["resid_post"]), added, np.nan)
    return Ledger(trace, values, named, features, layers, experts_beside(trace))


def experts_beside(trace: Record) -> str:
    """What the mixtures of experts of a trace's model are beside; "" where it has none.

    Raises:
        SiteError: the trace holds what experts add, and does not say it.
    """
    if f"picked_{_EXPERTS}" not in trace:
        return ""
    experts = trace.provenance.get("mome") or trace.provenance.get("mixture") or {}
    said = experts.get("placement")
    if said not in ("attention", "mlp", "layer"):
        raise SiteError(
            "trace_origin: this trace does not say what its experts are beside "
            f"(mome.placement is {said!r}); trace the model again."
        )
    return str(said)
