"""Which tokens of one clip say the same at two rates: cosines and best matches of one layer.

MoME (arXiv 2510.04136) reports, by a secondary source, that the similarity of tokens between rates
is near-linear: token by token along the diagonal. Here that is measured. The tokens of the finer
rate choose: each one's best match is the coarse token with the largest cosine. A coarse token's
partners are the fine tokens that chose it. Where coarse tokens are means of fine ones, the mean
place of the partners follows the coarse place in a line whose slope is the ratio of the rates.

Example:
    >>> fine = np.eye(6)
    >>> span = np.arange(7.0)
    >>> match = match_tokens(fine.reshape(3, 2, 6).mean(1), fine,
    ...     coarse_seconds=np.stack([span[:-1:2], span[2::2]], 1),
    ...     fine_seconds=np.stack([span[:-1], span[1:]], 1))
    >>> match.best.tolist(), round(match.slope, 6), match.inside
    ([0, 0, 1, 1, 2, 2], 2.0, 1.0)
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

__all__ = ["TokenMatch", "cosines", "match_tokens"]


@dataclass(frozen=True, eq=False)
class TokenMatch:
    """Tokens of one clip at a coarse and at a fine rate, in one layer.

    Attributes:
        cosine: of every coarse token (row) to every fine one (column).
        best: the coarse token that each fine one matches best.
        coarse_seconds: start and end of what each coarse token covers.
        fine_seconds: the same of the fine tokens.
    """

    cosine: Float[np.ndarray, "coarse fine"]
    best: Int[np.ndarray, " fine"]
    coarse_seconds: Float[np.ndarray, "coarse 2"]
    fine_seconds: Float[np.ndarray, "fine 2"]

    @property
    def partners(self) -> Int[np.ndarray, " coarse"]:
        """How many fine tokens chose each coarse token."""
        return np.bincount(self.best, minlength=len(self.cosine))

    @property
    def slope(self) -> float:
        """Fine tokens for a coarse one: slope of the partners' mean place; NaN where flat."""
        return self.line()[0]

    @property
    def slope_seconds(self) -> float:
        """The same in seconds for a second: 1 where tokens match those of their own time."""
        return self.line(seconds=True)[0]

    @property
    def deviations(self) -> Float[np.ndarray, " fine"]:
        """Seconds from the middle of each fine token to the span of its best match; 0 inside it."""
        middle, span = self.fine_seconds.mean(1), self.coarse_seconds[self.best]
        return np.maximum(0.0, np.maximum(span[:, 0] - middle, middle - span[:, 1]))

    @property
    def deviation(self) -> float:
        """Mean of the deviations, seconds."""
        return float(self.deviations.mean())

    @property
    def inside(self) -> float:
        """Share of fine tokens whose best match covers their middle, 0 to 1."""
        return float((self.deviations <= 1e-9).mean())

    @property
    def offset(self) -> float:
        """Mean of how much later a best match lies than the fine token, seconds, signed."""
        late = self.coarse_seconds[self.best].mean(1) - self.fine_seconds.mean(1)
        return float(late.mean())

    def line(self, *, seconds: bool = False) -> tuple[float, float]:
        """Slope and intercept of the fitted line: partners' mean place over the coarse place.

        Least squares over the coarse tokens that have partners. Places are numbers of tokens, or
        middles in seconds. NaN with fewer than two such tokens.
        """
        partners = self.partners
        chosen = np.flatnonzero(partners)
        if len(chosen) < 2:
            return float("nan"), float("nan")
        middle = self.fine_seconds.mean(1)
        places = middle if seconds else np.arange(len(self.best), dtype=float)
        mean = np.bincount(self.best, places, len(partners))[chosen] / partners[chosen]
        across = self.coarse_seconds.mean(1)[chosen] if seconds else chosen.astype(float)
        slope, intercept = np.polyfit(across, mean, 1)
        return float(slope), float(intercept)


def match_tokens(
    coarse: Float[np.ndarray, "coarse feature"],
    fine: Float[np.ndarray, "fine feature"],
    *,
    coarse_seconds: Float[np.ndarray, "coarse 2"],
    fine_seconds: Float[np.ndarray, "fine 2"],
    centred: bool = False,
) -> TokenMatch:
    """Match the tokens of one stretch of a clip at two rates; at least one token at each.

    Args:
        coarse: states at the rate with fewer tokens.
        fine: states at the rate with more.
        coarse_seconds: start and end of each coarse token.
        fine_seconds: start and end of each fine token.
        centred: take each rate's mean state off first: what all tokens share does not count.
    """
    cosine = cosines(coarse, fine, centred=centred)
    return TokenMatch(cosine, cosine.argmax(0), coarse_seconds, fine_seconds)


def cosines(
    coarse: Float[np.ndarray, "coarse feature"],
    fine: Float[np.ndarray, "fine feature"],
    *,
    centred: bool = False,
) -> Float[np.ndarray, "coarse fine"]:
    """Cosine of every coarse state to every fine one; 0 where a state has no length."""
    directions = []
    for states in (coarse, fine):
        moved = states.astype(np.float64)
        moved = moved - moved.mean(0) if centred else moved
        norms = np.linalg.norm(moved, axis=-1, keepdims=True)
        directions.append(np.divide(moved, norms, out=np.zeros_like(moved), where=norms > 0))
    return directions[0] @ directions[1].T
