"""Expert usage of every clip, layer and rate, and what is compared in it. Depends on record.

Coarse rates have fewer audio and video tokens beside the same prompt. If those got other experts
than the prompt does, the usage of all tokens would differ between rates although every token was
routed alike. So the usage of ``"all"`` is standardised: in every clip each segment counts with one
weight at all rates, its mean share of the tokens over the rates.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

from sinkscope.analysis.bootstrap import bootstrap_weights
from sinkscope.analysis.rates import Pair, check_rates, own_rate
from sinkscope.analysis.routing import ALL, Routed, routed_tokens, segments_of, token_mask
from sinkscope.analysis.tables import check_whole
from sinkscope.errors import InputError
from sinkscope.record import Record

__all__ = ["SEGMENTS", "Contrast", "Usages", "contrasts_of", "resamples", "usages_of"]

SEGMENTS = (ALL, "audio", "video")
"""What is compared by default, where it is there."""

Place = tuple[int, int]
"""Position of a pair of rates and of a layer."""

Contrast = tuple[str, Place, Place]
"""``"rates"`` or ``"layers"``, and the two places that are compared."""

Counted = tuple[Bool[np.ndarray, " sample"], list[Float[np.ndarray, "sample layer expert"]]]
"""Which clips count, and their shares at every rate."""


@dataclass(frozen=True, eq=False)
class Usages:
    """Usage of one segment at every pair of rates, in the clips that have it at all of them.

    Attributes:
        shares: of all choices of a clip, layer and rate, those of each expert.
        pairs: (audio rate, video rate) of each rate.
        layers: number of each layer.
        segment: whose tokens.
    """

    shares: Float[np.ndarray, "rate sample layer expert"]
    pairs: tuple[Pair, ...]
    layers: tuple[int, ...]
    segment: str

    @property
    def clips(self) -> int:
        """How many clips have the segment at every rate."""
        return self.shares.shape[1]

    def at(self, place: Place) -> Float[np.ndarray, "sample expert"]:
        """Every clip's usage at a rate and layer."""
        return self.shares[place[0], :, place[1]]

    def same_rate(self, contrast: Contrast) -> bool | None:
        """Whether the segment has one rate on both sides of a contrast of rates.

        None where it has no rate of its own, and for layers.
        """
        one, other = (own_rate(self.pairs[at], self.segment) for at, _ in contrast[1:])
        return None if contrast[0] == "layers" or one is None else one == other

    def signed(
        self, contrast: Contrast, signs: Int[np.ndarray, "draw sample"]
    ) -> Float[np.ndarray, " draw"]:
        """Total variation where the clips with sign -1 have their two labels exchanged."""
        moved = self.at(contrast[1]) - self.at(contrast[2])
        return np.asarray(np.abs(signs @ moved / len(moved)).sum(-1) / 2)


def usages_of(
    records: Mapping[Pair, Record], segments: Sequence[str], *, where: str
) -> list[Usages]:
    """The usage of every segment that some clip has at all rates, in the given order.

    Raises:
        SiteError: a record holds no router.
        InputError: the records are not fit to be compared, no segment was asked for, or none is
            there.
    """
    check_rates(records, where=where)
    asked = [segments] if isinstance(segments, str) else list(dict.fromkeys(segments))
    if not asked:
        raise InputError(f"{where}: no segment was asked for; give 'all', 'audio' or 'video'.")
    routed = [routed_tokens(record) for record in records.values()]
    if len({(one.layers, one.experts, one.top_k) for one in routed}) > 1:
        raise InputError(
            f"{where}: the routers differ in layers, experts or top_k; record one model alike."
        )
    given = list(records.values())
    counted = {one: _counted(given, routed, one) for one in asked}
    found = [
        Usages(np.stack([own[kept] for own in shares]), tuple(records), routed[0].layers, segment)
        for segment, (kept, shares) in counted.items()
        if kept.any()
    ]
    if not found:
        present = set.intersection(*(set(segments_of(record)) for record in given))
        raise InputError(
            f"{where}: no clip has any of the segments {', '.join(asked)} at every rate; the "
            f"records have in common {', '.join(sorted(present))}."
        )
    return found


def contrasts_of(usages: Usages) -> Iterator[Contrast]:
    """Every two rates in one layer, then every two layers at one rate."""
    rates, layers = range(len(usages.pairs)), range(len(usages.layers))
    yield from (("rates", (a, at), (b, at)) for at in layers for a, b in combinations(rates, 2))
    yield from (("layers", (at, a), (at, b)) for at in rates for a, b in combinations(layers, 2))


def resamples(usages: Usages, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap weights of the clips, and signs that exchange the labels of some.

    Raises:
        InputError: draws or seed are no whole number, or too low.
    """
    check_whole("draws", draws, least=1)
    check_whole("seed", seed, least=0)
    signs = np.random.default_rng(seed + 1).integers(0, 2, (draws, usages.clips)) * 2 - 1
    return bootstrap_weights(usages.clips, draws=draws, seed=seed), signs


def _counted(records: list[Record], routed: list[Routed], segment: str) -> Counted:
    """The clips that have the segment at every rate, and the shares of all clips at each."""
    if segment == ALL:
        return _standardised(records, routed)
    masks = _masks(records, routed, segment)
    kept = np.all([mask.any(1) for mask in masks], axis=0)
    return kept, [_shares(one, mask) for one, mask in zip(routed, masks, strict=True)]


def _standardised(records: list[Record], routed: list[Routed]) -> Counted:
    """Shares over all tokens, where each segment weighs the same at every rate."""
    names = sorted({name for record in records for name in segments_of(record)} - {ALL})
    masks = {name: _masks(records, routed, name) for name in names}
    counts = np.array([[mask.sum(1) for mask in masks[name]] for name in names], float)
    common = np.min(counts, axis=1, keepdims=True) > 0
    kept = np.any(common[:, 0], axis=0)
    tokens = np.where(common, counts, 0.0)
    totals = np.where(kept, tokens.sum(0), 1.0)
    weights = (tokens / totals).mean(1)
    sums = [np.zeros(one.chosen[:, :, 0].shape) for one in routed]
    for name, weight in zip(names, weights, strict=True):
        for place, (one, mask) in enumerate(zip(routed, masks[name], strict=True)):
            sums[place] += weight[:, None, None] * _shares(one, mask)
    return np.asarray(kept), sums


def _masks(
    records: list[Record], routed: list[Routed], segment: str
) -> list[Bool[np.ndarray, "sample token"]]:
    pairs = zip(records, routed, strict=True)
    return [token_mask(record, segment, one.chosen.shape[2]) for record, one in pairs]


def _shares(
    routed: Routed, mask: Bool[np.ndarray, "sample token"]
) -> Float[np.ndarray, "sample layer expert"]:
    """Of the choices of the masked tokens, those of each expert; 0 in a clip without any."""
    counts = np.where(mask[:, None, :, None], routed.chosen, 0).sum(2).astype(np.float64)
    totals = counts.sum(-1, keepdims=True)
    return np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
