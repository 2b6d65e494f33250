"""Are sinks tokens of little meaning? What they are, against the other tokens. Depends on record.

"Low semantic content" has to be made a quantity before it can be claimed: loudness, silence,
motion of the mouth, and pauses in the phoneme timeline are such quantities for audio and video
tokens. Delimiters and prompt tokens have none, and are counted apart.
"""

from typing import Any

import numpy as np
import pandas as pd

from sinkscope.analysis.descriptors import descriptor
from sinkscope.analysis.tables import check_number, make_table
from sinkscope.errors import InputError
from sinkscope.record import Record

__all__ = ["low_meaning"]

MEASURES = ("loudness_db", "silence", "motion", "pause")
"""What is compared; ``pause`` is 1 where no phoneme or a pause is spoken, on synthetic clips."""

PAUSES = ("", "sil", "sp", "spn", "pau")
"""Phoneme labels of a pause; so is any that begins with an underscore, as espeak writes it."""


def low_meaning(
    record: Record,
    sinks: pd.DataFrame,
    *,
    permutations: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare the audio and video tokens that are sinks with those that are not.

    Each sink token counts once, however many layers it is a sink in. The p-value is that of a
    two-sided permutation test of the difference of means: which tokens of a clip's segment are its
    sinks is drawn anew, so that loud and silent clips are not confused with loud and silent
    tokens. Neighbouring tokens are alike, which the test does not know: read it as a guide.

    Args:
        record: the record in which the sinks were found.
        sinks: what ``find_sinks`` returned for it (or ``sink_summary``, or ``twins``); only
            ``sample`` and ``token`` are read.
        permutations: how many draws.
        seed: of the draws.

    Returns:
        One row a segment and measure (``MEASURES``): ``n_sinks n_others``, ``mean_sinks
        mean_others median_sinks median_others``, ``difference`` (of the means), ``effect``
        (Cliff's delta, -1 to 1: how much more often a sink has more than another token than
        less), ``p``, and ``sentence``. NaN where there is nothing to compare.
        ``attrs["without_descriptors"]`` counts the sink tokens of other segments.

    Raises:
        InputError: if the table names tokens that the record does not have, or permutations is
            not above 0.
    """
    check_number("permutations", permutations)
    chosen = _chosen(record, sinks)
    rng = np.random.default_rng(seed)
    rows = []
    for segment in ("audio", "video"):
        if not any(layout.mask(segment).any() for layout in record.layouts):
            continue
        for measure in MEASURES:
            groups = _groups(record, chosen, segment, measure)
            row = {"segment": segment, "measure": measure, **_compare(groups, permutations, rng)}
            rows.append(row | {"sentence": _sentence(row)})
    columns = ["segment", "measure", *_compare([], 1, rng), "sentence"]
    table = pd.DataFrame(rows, columns=columns)
    elsewhere: dict[str, int] = {}
    for sample, token in chosen:
        segment = record.layouts[sample].segments[token]
        if segment not in ("audio", "video"):
            elsewhere[segment] = elsewhere.get(segment, 0) + 1
    attrs: dict[str, Any] = {"table": "low_meaning", "permutations": permutations, "seed": seed}
    return make_table(table, record, attrs | {"without_descriptors": elsewhere})


def _chosen(record: Record, sinks: pd.DataFrame) -> list[tuple[int, int]]:
    """The sink tokens, each once."""
    if not {"sample", "token"} <= set(sinks):
        raise InputError(
            "low_meaning: the table has no columns sample and token; give find_sinks'."
        )
    pairs = sorted({(int(s), int(t)) for s, t in zip(sinks["sample"], sinks["token"], strict=True)})
    for sample, token in pairs:
        if sample >= len(record) or token >= len(record.layouts[sample]):
            raise InputError(
                f"low_meaning: the table names token {token} of sample {sample}, which the record "
                "does not have; give the table that was made from it."
            )
    return pairs


def _groups(
    record: Record, chosen: list[tuple[int, int]], segment: str, measure: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each sample its known values in a segment, and which of them are sinks."""
    groups = []
    for sample, layout in enumerate(record.layouts):
        values = _measure(record, sample, measure)
        is_sink = np.isin(np.arange(len(layout)), [t for s, t in chosen if s == sample])
        known = layout.mask(segment) & ~np.isnan(values)
        groups.append((values[known], is_sink[known]))
    return groups


def _measure(record: Record, sample: int, measure: str) -> np.ndarray:
    if measure != "pause":
        return descriptor(record, sample, measure)
    phonemes = descriptor(record, sample, "phoneme")
    if not any(phonemes):
        return np.full(len(phonemes), np.nan)
    return np.array([float(p in PAUSES or p.startswith("_")) for p in phonemes])


def _compare(
    groups: list[tuple[np.ndarray, np.ndarray]], permutations: int, rng: np.random.Generator
) -> dict[str, int | float]:
    values = np.concatenate([np.empty(0), *(values for values, _ in groups)])
    is_sink = np.concatenate([np.empty(0, bool), *(sinks for _, sinks in groups)])
    sinks, others = values[is_sink], values[~is_sink]
    testable = len(sinks) > 0 and len(others) > 0
    nan = float("nan")
    return {
        "n_sinks": len(sinks),
        "n_others": len(others),
        "mean_sinks": float(sinks.mean()) if len(sinks) else nan,
        "mean_others": float(others.mean()) if len(others) else nan,
        "median_sinks": float(np.median(sinks)) if len(sinks) else nan,
        "median_others": float(np.median(others)) if len(others) else nan,
        "difference": float(sinks.mean() - others.mean()) if testable else nan,
        "effect": float(np.sign(sinks[:, None] - others).mean()) if testable else nan,
        "p": _permutation_p(groups, permutations, rng) if testable else nan,
    }


def _permutation_p(
    groups: list[tuple[np.ndarray, np.ndarray]], permutations: int, rng: np.random.Generator
) -> float:
    """Share of draws within each sample whose difference is at least as large, two-sided.

    Each sample's values are taken about their mean; the statistic is the sum over its sinks, which
    has the mean 0 under the draws. NaN where no sample has both sinks and others that differ.
    """
    observed, drawn = 0.0, np.zeros(permutations)
    mixed = [(v, s) for v, s in groups if s.any() and not s.all() and np.ptp(v) > 0]
    for values, sinks in mixed:
        centred = values - values.mean()
        observed += centred[sinks].sum()
        order = rng.random((permutations, len(values))).argsort(-1)[:, : int(sinks.sum())]
        drawn += centred[order].sum(-1)
    if not mixed:
        return float("nan")
    as_large = int((np.abs(drawn) >= abs(observed) - 1e-12).sum())
    return (1 + as_large) / (1 + permutations)


_WORDS = {
    "loudness_db": ("louder", "quieter", "loudness {:.1f} against {:.1f} dB"),
    "silence": ("more often silent", "less often silent", "{:.0%} against {:.0%} silent"),
    "motion": (
        "moving more",
        "moving less",
        "mouth motion {:.2f} against {:.2f} grey levels a frame",
    ),
    "pause": ("more often a pause", "less often a pause", "{:.0%} against {:.0%} pauses"),
}


def _sentence(row: dict[str, Any]) -> str:
    """The row in words; no more is said than was tested."""
    segment, (more, less, numbers) = row["segment"], _WORDS[row["measure"]]
    if not row["n_sinks"]:
        return f"Not testable: no {segment} token of known {row['measure']} is a sink."
    if np.isnan(row["p"]):
        return f"Not testable: the {segment} tokens do not differ in {row['measure']}."
    counts = f"{row['n_sinks']} against {row['n_others']} tokens, p = {row['p']:.3f}"
    figures = numbers.format(row["mean_sinks"], row["mean_others"])
    if row["p"] >= 0.05:
        return f"No difference established for {segment} sinks: {figures} ({counts})."
    way = more if row["difference"] > 0 else less
    return f"{segment.capitalize()} sinks are {way}: {figures} ({counts})."
