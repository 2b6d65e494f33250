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
from sinkscope.analysis.tables import check_number, make_table
from sinkscope.analysis.usage_distances import (
    SEGMENTS,
    Usages,
    contrasts_of,
    resamples,
    usages_of,
)
from sinkscope.record import Record

__all__ = ["VERDICTS", "usage_across_rates"]

VERDICTS = {
    "as reported": "usage is more alike across rates than across layers, less than half as far",
    "partly": "usage is more alike across rates than across layers, but more than half as far",
    "not established": "the difference between layers and rates is not told from none",
    "not as reported": "usage is more alike across layers than across rates",
    "not testable": "one clip, or one layer, says nothing of others",
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
    Experts of one number in two layers are different experts, so that routers which were never
    trained differ between layers too: judge a trained model beside the same model untrained.

    Args:
        records: of the same clips by (audio rate, video rate): see ``record_rates``.
        segments: ``"all"`` or segments; those that are absent are left out.
        draws: bootstrap resamples of the clips, and shuffles.
        seed: of both.

    Returns:
        One row a segment: ``segment clips rates layers`` (mean total variation over all comparisons
        of ``usage_distances``), each with ``_low`` and ``_high`` (95 % over clips) and
        ``_control`` and ``_control_high`` (labels exchanged at random: mean, 95th percentile);
        ``difference difference_low difference_high`` (layers minus rates), and ``verdict``, a key
        of ``VERDICTS``.

    Raises:
        SiteError: a record holds no router.
        InputError: fewer than two pairs, other clips or layers, or none of the segments.
    """
    check_number("draws", draws)
    found = usages_of(records, segments, where="usage_across_rates")
    table = pd.DataFrame([_row(usages, *resamples(usages, draws, seed)) for usages in found])
    attrs = {"table": "usage_across_rates", "pairs": list(records), "draws": draws, "seed": seed}
    return make_table(table, next(iter(records.values())), attrs)


def _row(usages: Usages, weights: np.ndarray, signs: np.ndarray) -> dict[str, Any]:
    """The means of one segment, their intervals and controls."""
    kinds = {
        kind: [contrast for contrast in contrasts_of(usages) if contrast[0] == kind]
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
    row: dict[str, Any] = {"segment": usages.segment, "clips": usages.shares.shape[1]}
    for i, name in enumerate(("rates", "layers", "difference")):
        row |= {name: point[i], f"{name}_low": low[i], f"{name}_high": high[i]}
        if kinds.get(name):
            shuffled = np.mean([usages.signed(one, signs) for one in kinds[name]], axis=0)
            row[f"{name}_control"] = float(shuffled.mean())
            row[f"{name}_control_high"] = float(np.quantile(shuffled, LEVEL))
    return row | {"verdict": _verdict(row)}


def _verdict(row: dict[str, Any]) -> str:
    if not np.isfinite(row["difference_low"]):
        return "not testable"
    if row["difference_high"] < 0:
        return "not as reported"
    if row["difference_low"] <= 0:
        return "not established"
    return "as reported" if row["rates"] < row["layers"] / 2 else "partly"
