"""usage_distances: expert usage between rates in one layer, and between layers at one rate.

Depends on record. ``usage_across_rates`` puts the two side by side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from sinkscope.analysis.bootstrap import LEVEL, bootstrap_interval, bootstrap_weights
from sinkscope.analysis.distances import jensen_shannon, total_variation
from sinkscope.analysis.rates import Pair, check_rates
from sinkscope.analysis.routing import ALL, routed_tokens, segments_of, token_mask
from sinkscope.analysis.tables import check_number, make_table
from sinkscope.errors import InputError
from sinkscope.record import Record

__all__ = ["SEGMENTS", "Contrast", "Usages", "contrasts_of", "usage_distances", "usages_of"]

SEGMENTS = (ALL, "audio", "video")
"""What is compared by default, where it is there."""

Place = tuple[int, int]
"""Position of a pair of rates and of a layer."""

Contrast = tuple[str, Place, Place]
"""``"rates"`` or ``"layers"``, and the two places that are compared."""


@dataclass(frozen=True, eq=False)
class Usages:
    """Usage of one segment at every pair of rates.

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

    def at(self, place: Place) -> Float[np.ndarray, "sample expert"]:
        """Every clip's usage at a rate and layer."""
        return self.shares[place[0], :, place[1]]

    def signed(
        self, contrast: Contrast, signs: Int[np.ndarray, "draw sample"]
    ) -> Float[np.ndarray, " draw"]:
        """Total variation where the clips with sign -1 have their two labels exchanged."""
        moved = self.at(contrast[1]) - self.at(contrast[2])
        return np.asarray(np.abs(signs @ moved / len(moved)).sum(-1) / 2)


def usage_distances(
    records: Mapping[Pair, Record],
    *,
    segments: Sequence[str] = SEGMENTS,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Distances of expert usage between rates and between layers, each with a shuffled control.

    Usage is the mean over clips of each clip's shares. The control exchanges the two labels (rates
    or layers) of each clip or not, at random: so far apart are two usages whose label says nothing.
    Experts of one number in two layers are different experts: between layers the distance says that
    the histograms differ, and ``sorted_tv`` how much of it is evenness alone.

    Args:
        records: of the same clips by (audio rate, video rate): see ``record_rates``.
        segments: ``"all"`` or segments; those that are absent are left out.
        draws: bootstrap resamples of the clips, and shuffles.
        seed: of both.

    Returns:
        One row a segment and comparison: ``segment kind`` ("rates" or "layers"), ``layer
        other_layer`` (0-based), ``audio_rate video_rate other_audio_rate other_video_rate``,
        ``tv`` (total variation, 0 to 1) and ``js`` (Jensen-Shannon distance, 0 to 1), each with
        ``_low`` and ``_high`` (95 % over clips, NaN for one clip; resampled distances lie a little
        too high), ``sorted_tv``, ``control`` and ``control_high`` (mean and 95th percentile of the
        shuffled total variation), ``p``.

    Raises:
        SiteError: a record holds no router.
        InputError: fewer than two pairs, other clips or layers, or none of the segments.
    """
    check_number("draws", draws)
    rows = []
    for usages in usages_of(records, segments, where="usage_distances"):
        weights, signs = resamples(usages, draws, seed)
        for contrast in contrasts_of(usages):
            rows.append(_row(usages, contrast, weights, signs))
    attrs = {"table": "usage_distances", "pairs": list(records), "draws": draws, "seed": seed}
    return make_table(pd.DataFrame(rows), next(iter(records.values())), attrs)


def usages_of(
    records: Mapping[Pair, Record], segments: Sequence[str], *, where: str
) -> list[Usages]:
    """The usage of every segment that all records have, in the given order.

    Raises:
        InputError: the records are not fit to be compared, or none has a segment.
    """
    check_rates(records, where=where)
    present = [set(segments_of(record)) for record in records.values()]
    shown = [segment for segment in segments if all(segment in own for own in present)]
    if not shown:
        raise InputError(
            f"{where}: the records have none of the segments {', '.join(segments)} in common; "
            f"they have {', '.join(sorted(set.intersection(*present)))}."
        )
    routed = [routed_tokens(record) for record in records.values()]
    return [
        Usages(
            np.stack(
                [
                    _clip_shares(one.chosen, token_mask(record, segment, one.chosen.shape[2]))
                    for one, record in zip(routed, records.values(), strict=True)
                ]
            ),
            tuple(records),
            routed[0].layers,
            segment,
        )
        for segment in shown
    ]


def contrasts_of(usages: Usages) -> list[Contrast]:
    """Every two rates in one layer, then every two layers at one rate."""
    rates, layers = range(len(usages.pairs)), range(len(usages.layers))
    between = [("rates", (a, at), (b, at)) for at in layers for a, b in combinations(rates, 2)]
    across = [("layers", (at, a), (at, b)) for at in rates for a, b in combinations(layers, 2)]
    return between + across


def resamples(usages: Usages, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap weights of the clips, and signs that exchange the labels of some."""
    clips = usages.shares.shape[1]
    signs = np.random.default_rng(seed + 1).integers(0, 2, (draws, clips)) * 2 - 1
    return bootstrap_weights(clips, draws=draws, seed=seed), signs


def _clip_shares(chosen: np.ndarray, mask: np.ndarray) -> Float[np.ndarray, "sample layer expert"]:
    counts = np.where(mask[:, None, :, None], chosen, 0).sum(2).astype(np.float64)
    totals = counts.sum(-1, keepdims=True)
    return np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)


def _row(
    usages: Usages, contrast: Contrast, weights: np.ndarray, signs: np.ndarray
) -> dict[str, Any]:
    kind, first, second = contrast
    one, other = usages.at(first), usages.at(second)

    def distances(drawn: np.ndarray) -> np.ndarray:
        means = [drawn @ usage / drawn.sum(-1, keepdims=True) for usage in (one, other)]
        return np.stack([total_variation(*means), jensen_shannon(*means)], -1)

    point, low, high = bootstrap_interval(distances, weights)
    shuffled = usages.signed(contrast, signs)
    pairs = usages.pairs[first[0]], usages.pairs[second[0]]
    ordered = [np.sort(usage.mean(0)) for usage in (one, other)]
    return {
        "segment": usages.segment,
        "kind": kind,
        "layer": usages.layers[first[1]],
        "other_layer": usages.layers[second[1]],
        "audio_rate": pairs[0][0],
        "video_rate": pairs[0][1],
        "other_audio_rate": pairs[1][0],
        "other_video_rate": pairs[1][1],
        **{"tv": point[0], "tv_low": low[0], "tv_high": high[0]},
        **{"js": point[1], "js_low": low[1], "js_high": high[1]},
        "sorted_tv": float(total_variation(*ordered)),
        "control": float(shuffled.mean()),
        "control_high": float(np.quantile(shuffled, LEVEL)),
        "p": float((1 + (shuffled >= point[0] - 1e-12).sum()) / (1 + len(shuffled))),
    }
