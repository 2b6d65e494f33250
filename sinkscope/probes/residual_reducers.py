"""Statistics of states: largest activations, medians, norms, cosines to the reference token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sinkscope.errors import InputError, SiteError
from sinkscope.glossary import SITES
from sinkscope.probes.quantiles import bit_counts, counted_lower_median, lower_median
from sinkscope.probes.reducer import Cat, Reducer, Rule, State, Sum, Top, site_prefix
from sinkscope.probes.values import Tokens

__all__ = ["BosSimilarity", "Median", "Norms", "TokenReducer", "TopActivations", "token_axes"]

_HALF = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
_NORM_NAMES = {"q": "query_norm", "k": "key_norm", "v": "value_norm"}


@dataclass(frozen=True)
class TokenReducer(Reducer):
    """A reducer of the states of tokens: any site but ``pattern``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.site == "pattern":
            raise SiteError(f"{type(self).__name__} reads states of tokens, not 'pattern'.")


@dataclass(frozen=True)
class TopActivations(TokenReducer):
    """The ``k`` activations of largest magnitude, signed, and where they are.

    Which of several equal magnitudes come last in the list is left open.

    Attributes:
        k: how many.
        per: ``"token"`` (features of each token) or ``"layer"`` (over tokens and features, as in
            Sun et al., arXiv 2402.17762).
    """

    k: int = 8
    per: Literal["token", "layer"] = "token"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise InputError(f"TopActivations: k is {self.k}; keep at least 1.")
        if len(SITES[self.site].dims) != 3:
            raise SiteError(f"TopActivations reads states without a head, not {self.site!r}.")

    @property
    def prefix(self) -> str:
        """What this reducer's variables begin with."""
        usual = "token" if self.site == "resid_post" else "layer"
        return site_prefix(self.site) + ("" if self.per == usual else f"{self.per}_")

    def rules(self) -> Mapping[str, Rule]:
        """How two states combine."""
        if self.per == "token":
            return {"value": Cat(axis=0), "feature": Cat(axis=0)}
        return {name: Top(by="value", k=self.k) for name in ("value", "token", "feature")}

    def reduce(self, value: Tokens) -> State:
        """``value`` and ``feature`` ``[token, rank]``, or with ``token``, all ``[rank]``."""
        states = value.values
        if self.per == "token":
            features = states.abs().topk(min(self.k, states.shape[-1]), dim=-1).indices
            return {"value": states.gather(-1, features), "feature": features.to(torch.int32)}
        rows = states.abs().amax(-1).topk(min(self.k, len(states))).indices
        flat = states[rows].flatten()
        top = flat.abs().topk(min(self.k, len(flat))).indices
        width = states.shape[-1]
        return {
            "value": flat[top],
            "token": (rows[top // width] + value.start).to(torch.int32),
            "feature": (top % width).to(torch.int32),
        }

    def finish(self, state: State) -> State:
        """``top_value``, ``top_feature`` and, over a layer, ``top_token``."""
        return {f"{self.prefix}top_{name}": entry for name, entry in state.items()}

    def variables(self) -> Mapping[str, tuple[str, ...]]:
        """Names and axes of the values and of where they are."""
        axes = ("token", "rank") if self.per == "token" else ("rank",)
        return {f"{self.prefix}top_{name}": axes for name in self.rules()}


@dataclass(frozen=True)
class Median(TokenReducer):
    """Exact median of the magnitudes over tokens and features: the lower one, as torch's.

    Sixteen-bit values are counted by their bits, which merges in a few kilobytes. Magnitudes of
    wider values are held until the sample is whole: at once without a cache, else until its last
    token.
    """

    def rules(self) -> Mapping[str, Rule]:
        """How two states combine; a state has one of these."""
        return {"magnitudes": Cat(axis=0), "float16": Sum(), "bfloat16": Sum()}

    def reduce(self, value: Tokens) -> State:
        """Counts of the bits of sixteen-bit magnitudes, else the magnitudes."""
        kind = _HALF.get(value.values.dtype)
        if kind is not None:
            return {kind: bit_counts(value.values)}
        return {"magnitudes": value.values.abs().flatten()}

    def finish(self, state: State) -> State:
        """``median``, a number."""
        ((kind, entry),) = state.items()
        dtypes = {name: dtype for dtype, name in _HALF.items()}
        if kind in dtypes:
            median = counted_lower_median(entry, dtypes[kind])
        else:
            median = lower_median(entry)
        return {f"{site_prefix(self.site)}median": median}

    def variables(self) -> Mapping[str, tuple[str, ...]]:
        """``median``."""
        return {f"{site_prefix(self.site)}median": ()}


@dataclass(frozen=True)
class Norms(TokenReducer):
    """Euclidean norm of each token's state, accumulated in float64; also of keys and values."""

    def rules(self) -> Mapping[str, Rule]:
        """How two states combine."""
        return {self._name: Cat(axis=-1)}

    def reduce(self, value: Tokens) -> State:
        """The norms ``[token]``, or ``[head, token]``."""
        norms = torch.linalg.vector_norm(value.values, dim=-1, dtype=torch.float64)
        return {self._name: norms.float()}

    def variables(self) -> Mapping[str, tuple[str, ...]]:
        """``norm``, or ``key_norm``, ``value_norm``, ``query_norm``."""
        return {self._name: token_axes(self.site)[:-1]}

    @property
    def _name(self) -> str:
        return _NORM_NAMES.get(self.site, f"{site_prefix(self.site)}norm")


@dataclass(frozen=True)
class BosSimilarity(TokenReducer):
    """Cosine of each token's state to that of the layout's reference token, BOS where there is one.

    Products and norms are summed in float64: where massive activations rule a state, float32 would
    lose the digits of everything else.
    """

    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(SITES[self.site].dims) != 3:
            raise SiteError(f"BosSimilarity reads states without a head, not {self.site!r}.")

    def rules(self) -> Mapping[str, Rule]:
        """How two states combine."""
        return {f"{site_prefix(self.site)}bos_cosine": Cat(axis=0)}

    def reduce(self, value: Tokens) -> State:
        """The cosines ``[token]``; NaN where a state is zero."""
        if value.reference is None:
            raise SiteError("BosSimilarity: these tokens come without their reference token.")
        reference = value.reference.double()
        rows = max(1, 2**17 // max(1, len(reference)))
        cosines = [_cosine(part.double(), reference) for part in value.values.split(rows)]
        cosine = torch.cat(cosines)
        return {f"{site_prefix(self.site)}bos_cosine": cosine.float()}

    def variables(self) -> Mapping[str, tuple[str, ...]]:
        """``bos_cosine``."""
        return {f"{site_prefix(self.site)}bos_cosine": ("token",)}


def token_axes(site: str) -> tuple[str, ...]:
    """The axes of one sample's value at a site, from the glossary."""
    return SITES[site].dims[1:]


def _cosine(
    states: Float[Tensor, "token feature"], reference: Float[Tensor, " feature"]
) -> Float[Tensor, " token"]:
    norms = torch.linalg.vector_norm(states, dim=-1) * torch.linalg.vector_norm(reference)
    return (states @ reference) / norms
