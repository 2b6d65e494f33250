"""usage_distances: expert usage between rates in one layer, and between layers at one rate.

Depends on record. ``usage_across_rates`` puts the two side by side.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sinkscope.analysis.bootstrap import LEVEL, bootstrap_interval
from sinkscope.analysis.distances import jensen_shannon, total_variation
from sinkscope.analysis.rates import Pair
from sinkscope.analysis.tables import make_table
from sinkscope.analysis.usages import (
    SEGMENTS,
    Contrast,
    Usages,
    contrasts_of,
    resamples,
    usages_of,
)
from sinkscope.record import Record

__all__ = ["usage_distances"]


def usage_distances(
    records: Mapping[Pair, Record],
    *,
    segments: Sequence[str] = SEGMENTS,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Distances of expert usage between rates and between layers, each with a shuffled control.

    Usage is the mean over clips of each clip's shares, of the clips that have the segment at every
    rate. Over ``"all"`` tokens each segment counts the same at every rate (its mean share of the
    clip's tokens), so that the mix of tokens, which differs between rates, does not pass for
    routing. The control exchanges the two labels (rates
    or layers) of each clip or not, at random: so far apart are two usages whose label says nothing.
    Experts of one number in two layers are different experts: between layers the distance says that
    the histograms differ, and ``sorted_tv`` how much of it is evenness alone.

    Args:
        records: of the same clips by (audio rate, video rate): see ``record_rates``.
        segments: ``"all"`` or segments; those that no clip has at every rate are left out.
        draws: bootstrap resamples of the clips, and shuffles.
        seed: of both.

    Returns:
        One row a segment and comparison: ``segment kind`` ("rates" or "layers"), ``layer
        other_layer`` (0-based), ``audio_rate video_rate other_audio_rate other_video_rate``,
        ``same_rate`` (whether the segment's own rate is the same in both, so that only the other
        stream's differs; empty for layers and for segments without a rate), ``clips``, ``tv``
        (total variation, 0 to 1) and ``js`` (Jensen-Shannon distance, 0 to 1), each with ``_low``
        and ``_high`` (95 % over clips, NaN for one clip; resampled distances lie a little too
        high), ``sorted_tv``, ``control`` and ``control_high`` (mean and 95th percentile of the
        shuffled total variation), ``p`` (of one comparison alone: correct it for how many there
        are).

    Raises:
        SiteError: a record holds no router.
        InputError: fewer than two pairs, other clips or layers, none of the segments, or draws or
            a seed that are no whole number.
    """
    rows = []
    for usages in usages_of(records, segments, where="usage_distances"):
        weights, signs = resamples(usages, draws, seed)
        for contrast in contrasts_of(usages):
            rows.append(_row(usages, contrast, weights, signs))
    table = pd.DataFrame(rows)
    table["same_rate"] = table["same_rate"].astype("boolean")
    attrs = {"table": "usage_distances", "pairs": list(records), "draws": draws, "seed": seed}
    return make_table(table, next(iter(records.values())), attrs)


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
        "same_rate": usages.same_rate(contrast),
        "clips": usages.clips,
        **{"tv": point[0], "tv_low": low[0], "tv_high": high[0]},
        **{"js": point[1], "js_low": low[1], "js_high": high[1]},
        "sorted_tv": float(total_variation(*ordered)),
        "control": float(shuffled.mean()),
        "control_high": float(np.quantile(shuffled, LEVEL)),
        "p": float((1 + (shuffled >= point[0] - 1e-12).sum()) / (1 + len(shuffled))),
    }
