"""Keep: the reducer that keeps everything, what other tools call an activation cache."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sinkscope.errors import SiteError
from sinkscope.probes.reducer import Cat, Reducer, Rule, State
from sinkscope.probes.residual_reducers import token_axes
from sinkscope.probes.values import Rows, Tokens

__all__ = ["Keep"]


@dataclass(frozen=True)
class Keep(Reducer):
    """Every value of a site, as it is: whole attention maps (``"pattern"``) or activations.

    Attention maps come with ``visible``, 1 where a query can see a key.

    Attributes:
        max_bytes: what may be kept at most; a forward that would pass it is refused before.
    """

    max_bytes: int = 2 * 2**30

    def rules(self) -> Mapping[str, Rule]:
        """How two states combine."""
        if self.site == "pattern":
            return {"pattern": Cat(axis=1), "visible": Cat(axis=0)}
        return {self.site: Cat(axis=-2)}

    def reduce(self, value: Rows | Tokens) -> State:
        """The values, on the CPU."""
        if isinstance(value, Tokens):
            return {self.site: value.values.detach().to("cpu", copy=True)}
        heads, queries, _ = value.weights.shape
        pattern = torch.zeros(heads, queries, value.last_key, dtype=torch.float32)
        pattern[:, :, value.first_key :] = value.weights
        visible = torch.zeros(queries, value.last_key, dtype=torch.int8)
        visible[:, value.first_key :] = value.sees()
        return {"pattern": pattern, "visible": visible}

    def variables(self) -> Mapping[str, tuple[str, ...]]:
        """The site, and ``visible`` beside ``pattern``."""
        if self.site == "pattern":
            return {"pattern": ("head", "query", "key"), "visible": ("query", "key")}
        return {self.site: token_axes(self.site)}

    def refuse(self, n_bytes: int, where: str) -> None:
        """Refuse to keep more than the limit.

        Raises:
            SiteError: if it is more.
        """
        if n_bytes > self.max_bytes:
            raise SiteError(
                f"Keep({self.site!r}) would take {n_bytes / 2**30:.2f} GiB for {where}, more than "
                f"its limit of {self.max_bytes / 2**30:.2f} GiB; choose fewer layers, keep "
                f"PatternBins instead of maps, or raise max_bytes."
            )
