"""What counts as a sink and as massive in a run, in one value that travels with it."""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Thresholds"]


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of a run; see ``find_sinks`` and ``find_massive_activations``.

    Attributes:
        threshold: key attention that a sink must pass, strictly.
        min_heads: share of heads, 0 to 1, that is enough by itself.
        min_queries: queries that must see a token before it can be a sink.
        ratio: |x| from this multiple of the layer's median on is massive; None: the subject's
            own, else 1000.
        cosine: cosine to BOS above which a token is a twin of BOS.

    Example:
        >>> Thresholds(ratio=50).of_massive
        {'ratio': 50}
    """

    threshold: float | int = 0.3
    min_heads: float | int = 0.5
    min_queries: int = 8
    ratio: float | int | None = None
    cosine: float | int = 0.8

    @property
    def of_sinks(self) -> dict[str, Any]:
        """The parameters of ``find_sinks``."""
        return asdict(self)

    @property
    def of_massive(self) -> dict[str, Any]:
        """The parameters of ``find_massive_activations``."""
        return {"ratio": self.ratio}

    @property
    def of_twins(self) -> dict[str, Any]:
        """The parameters of ``twins``."""
        return {"cosine": self.cosine, "threshold": self.threshold}
