"""usage_across_rates: is expert usage the same at every rate and another in every layer?

Depends on record. MoME (arXiv 2510.04136) is reported, by a secondary source, to show this in
histograms; here it is measured, with a rule that was fixed beforehand.

Example:
    >>> import sinkscope as ss
    >>> records = ss.record_rates("tiny-mome", clips, [(4, 2), (16, 5)])   # doctest: +SKIP
    >>> print(ss.describe(ss.usage_across_rates(records)))                # doctest: +SKIP
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sinkscope.analysis.bootstrap import LEVEL, bootstrap_interval
from sinkscope.analysis.distances import total_variation
from sinkscope.analysis.rates import Pair
from sinkscope.analysis.tables import make_table
from sinkscope.analysis.usages import (
    SEGMENTS,
    Usages,
    contrasts_of,
    resamples,
    usages_of,
)
from sinkscope.record import Record

__all__ = ["FEWEST_CLIPS", "VERDICTS", "usage_across_rates"]

FEWEST_CLIPS = 6
"""Of fewer, resamples differ too little: their interval misses the truth too often to judge by."""

VERDICTS = {
    "as reported": "usage is more alike across rates than across layers, less than half as far",
    "partly": "usage is more alike across rates than across layers, but more than half as far",
    "not established": "the difference between layers and rates is not told from none",
    "not as reported": "usage is more alike across layers than across rates",
    "few clips": f"fewer than {FEWEST_CLIPS} clips: the interval is too narrow to judge by",
    "not testable": "one clip, one layer, or one rate of the stream, says nothing of others",
}
"""What each verdict means."""


def usage_across_rates(
    records: Mapping[Pair, Record],
    *,
    segments: Sequence[str] = SEGMENTS,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean distance of expert usage across rates beside that across layers, and a verdict.

    "As reported" if the 95 % interval of the difference (layers minus rates) lies above 0 and the
    distance across rates is less than half of that across layers; "partly" if only the first holds.
    The interval is over clips: it says what other clips would give at these rates in these layers,
    not what other rates or layers would. It needs six clips. Experts of one number in two layers
    are different experts, so that routers which were never trained differ between layers too: judge
    a trained model beside the same model untrained.

    Audio (video) tokens are compared between pairs whose audio (video) rate differs; where only the
    other stream's does, most of their states are the same. All tokens count as in
    ``usage_distances``: each segment with one weight at every rate.

    Args:
        records: of the same clips by (audio rate, video rate): see ``record_rates``.
        segments: ``"all"`` or segments; those that no clip has at every rate are left out.
        draws: bootstrap resamples of the clips, and shuffles.
        seed: of both.

    Returns:
        One row a segment: ``segment clips rates layers`` (mean total variation over the comparisons
        of ``usage_distances``, without those of one rate), each with ``_low`` and ``_high`` (95 %
        over clips) and ``_control`` and ``_control_high`` (labels exchanged at random: mean, 95th
        percentile); ``rates_compared layers_compared`` (how many comparisons);
        ``difference difference_low difference_high`` (layers minus rates), and ``verdict``, a key
        of ``VERDICTS``.

    Raises:
        SiteError: a record holds no router.
        InputError: fewer than two pairs, other clips or layers, none of the segments, or draws or
            a seed that are no whole number.
    """
    found = usages_of(records, segments, where="usage_across_rates")
    table = pd.DataFrame([_row(usages, *resamples(usages, draws, seed)) for usages in found])
    attrs = {"table": "usage_across_rates", "pairs": list(records), "layers": found[0].layers}
    attrs |= {"draws": draws, "seed": seed}
    return make_table(table, next(iter(records.values())), attrs)


def _row(usages: Usages, weights: np.ndarray, signs: np.ndarray) -> dict[str, Any]:
    """The means of one segment, their intervals and controls."""
    kinds = {
        kind: [one for one in contrasts_of(usages) if one[0] == kind and not usages.same_rate(one)]
        for kind in ("rates", "layers")
    }

    def means(drawn: np.ndarray) -> np.ndarray:
        share = drawn / drawn.sum(-1, keepdims=True)
        usage = np.einsum("dc,rcle->drle", share, usages.shares)
        far = [
            np.mean([total_variation(usage[:, *a], usage[:, *b]) for _, a, b in own], axis=0)
            if own
            else np.full(len(drawn), np.nan)
            for own in kinds.values()
        ]
        return np.stack([*far, far[1] - far[0]], -1)

    point, low, high = bootstrap_interval(means, weights)
    row: dict[str, Any] = {"segment": usages.segment, "clips": usages.clips}
    for i, name in enumerate(("rates", "layers", "difference")):
        row |= {name: point[i], f"{name}_low": low[i], f"{name}_high": high[i]}
    for name, own in kinds.items():
        drawn = [usages.signed(one, signs) for one in own] or [np.full(len(signs), np.nan)]
        shuffled = np.mean(drawn, axis=0)
        row[f"{name}_control"] = float(shuffled.mean())
        row[f"{name}_control_high"] = float(np.quantile(shuffled, LEVEL))
        row[f"{name}_compared"] = len(own)
    return row | {"verdict": _verdict(row)}


def _verdict(row: dict[str, Any]) -> str:
    if not np.isfinite(row["difference_low"]):
        return "not testable"
    if row["clips"] < FEWEST_CLIPS:
        return "few clips"
    if row["difference_high"] < 0:
        return "not as reported"
    if row["difference_low"] <= 0:
        return "not established"
    return "as reported" if row["rates"] < row["layers"] / 2 else "partly"
