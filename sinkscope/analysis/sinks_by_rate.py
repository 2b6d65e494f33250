"""sinks_by_rate: the sinks of one set of clips at several rates, and how many tokens are sinks.

Depends on record. ``sink_agreement`` says whether they lie at the same seconds.

Example:
    >>> import sinkscope as ss
    >>> records = ss.record_rates("tiny-avsr", clips, [(4, 2), (16, 5)])   # doctest: +SKIP
    >>> sinks = ss.sinks_by_rate(records)                                 # doctest: +SKIP
    >>> ss.describe(ss.sink_agreement(records, sinks))                    # doctest: +SKIP
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sinkscope.analysis.bootstrap import bootstrap_interval, bootstrap_weights
from sinkscope.analysis.finding import find_sinks
from sinkscope.analysis.rates import Pair, check_rates
from sinkscope.analysis.sink_tables import sinks_at, sinks_of_rates
from sinkscope.analysis.summary import sink_summary
from sinkscope.analysis.tables import check_whole, make_table
from sinkscope.record import Record

__all__ = ["sink_share", "sinks_by_rate"]


def sinks_by_rate(records: Mapping[Pair, Record], **thresholds: Any) -> pd.DataFrame:
    """Every token that is a sink in some layer, at every pair of rates.

    Args:
        records: of the same clips by (audio rate, video rate): see ``record_rates``.
        **thresholds: those of ``find_sinks``.

    Returns:
        ``audio_rate video_rate``, then the columns of ``sink_summary``: one row a pair, sample and
        token. ``attrs`` hold the thresholds and ``pairs``, also those at which there is no sink.

    Raises:
        InputError: fewer than two pairs, other clips, or a threshold outside its range.
    """
    check_rates(records, where="sinks_by_rate")
    parts = []
    for (audio, video), record in records.items():
        summary = sink_summary(find_sinks(record, **thresholds))
        said = summary.attrs
        summary.attrs = {}
        summary.insert(0, "audio_rate", audio)
        summary.insert(1, "video_rate", video)
        parts.append((summary, said))
    filled = [part for part, _ in parts if len(part)] or [parts[0][0]]
    rules = {
        name: parts[0][1][name]
        for name in ("threshold", "min_heads", "min_queries", "ratio_threshold", "cosine", "drain")
    }
    attrs = {"table": "sinks_by_rate", "pairs": list(records), **rules}
    return make_table(pd.concat(filled, ignore_index=True), next(iter(records.values())), attrs)


def sink_share(
    records: Mapping[Pair, Record], sinks: pd.DataFrame, *, draws: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """How many of a segment's tokens are sinks, at every pair of rates.

    Args:
        records: those in which the sinks were found.
        sinks: what ``sinks_by_rate`` returned for them.
        draws: bootstrap resamples of the clips.
        seed: of the resamples.

    Returns:
        One row a pair and segment (``"all"`` for all tokens): ``audio_rate video_rate segment
        tokens sinks`` (sums over the clips), ``share`` (0 to 1) with ``low`` and ``high`` (95 %
        over clips, NaN for one clip), ``sinks_a_clip``. Fewer tokens of a segment make each sink a
        larger share of them: compare ``sinks_a_clip`` too.

    Raises:
        InputError: the table is another one or of other records, the records are not fit to be
            compared, or draws or a seed are no whole number.
    """
    check_rates(records, where="sink_share")
    sinks = sinks_of_rates(sinks, records, where="sink_share")
    check_whole("draws", draws, least=1)
    check_whole("seed", seed, least=0)
    weights = bootstrap_weights(len(next(iter(records.values()))), draws=draws, seed=seed)
    rows = []
    for pair, record in records.items():
        own = sinks_at(sinks, pair)
        present = list(dict.fromkeys(s for layout in record.layouts for s in layout.segments))
        for segment in ("all", *present):
            counts = np.array([_counts(record, own, i, segment) for i in range(len(record))], float)
            point, low, high = bootstrap_interval(
                lambda drawn, counts=counts: _ratio(drawn @ counts), weights
            )
            tokens, found = counts.sum(0).astype(int).tolist()
            row = {"audio_rate": pair[0], "video_rate": pair[1], "segment": segment}
            row |= {"tokens": tokens, "sinks": found, "share": point[0]}
            row |= {"low": low[0], "high": high[0], "sinks_a_clip": found / len(record)}
            rows.append(row)
    attrs = {"table": "sink_share", "pairs": list(records), "draws": draws, "seed": seed}
    return make_table(pd.DataFrame(rows), next(iter(records.values())), attrs)


def _counts(record: Record, own: pd.DataFrame, sample: int, segment: str) -> tuple[int, int]:
    """Tokens and sinks of a segment in one clip."""
    layout = record.layouts[sample]
    mask = layout.is_real if segment == "all" else layout.mask(segment)
    tokens = own.loc[own["sample"] == sample, "token"].to_numpy(np.int64)
    return int(mask.sum()), int(mask[tokens].sum())


def _ratio(sums: np.ndarray) -> np.ndarray:
    """Sinks over tokens, one column; NaN without tokens."""
    empty = np.full(len(sums), np.nan)
    return np.divide(sums[:, 1], sums[:, 0], out=empty, where=sums[:, 0] > 0)[:, None]
