"""rate_similarity: do the tokens of one clip at two rates match along the clip's own time?

Depends on record. The numbers are those of ``rate_match``, over clips, with a shuffled-clip
control: what tokens match by their place alone, the control's do too.

Example:
    >>> import sinkscope as ss
    >>> records = ss.record_rates("tiny-avsr", clips, [(4, 2), (16, 5)],
    ...     keep=["resid_post"])                                        # doctest: +SKIP
    >>> ss.rate_similarity(*records.values())                           # doctest: +SKIP
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from sinkscope.analysis.bootstrap import bootstrap_interval, bootstrap_weights
from sinkscope.analysis.rate_match import TokenMatch, match_tokens
from sinkscope.analysis.rates import STREAMS, rate_of, refuse_other_clips
from sinkscope.analysis.tables import check_whole, layers_of, make_table
from sinkscope.errors import InputError
from sinkscope.glossary import paper_layer
from sinkscope.record import Record

__all__ = ["clip_match", "rate_similarity"]

NUMBERS = ("slope", "slope_seconds", "deviation", "inside", "offset", "partners")
"""Numbers of a match that are averaged over clips, each with its interval."""

CONTROLS = ("slope_seconds", "deviation", "inside")
"""Those that are also measured against the tokens of another clip."""


def rate_similarity(
    one: Record,
    other: Record,
    *,
    site: str = "resid_post",
    centred: bool = False,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Match the tokens of every clip at two rates, in every layer that was kept.

    Audio and video are matched apart. In each, the rate with more tokens is the fine one: its
    tokens choose among those of the coarse one.

    Args:
        one: a record that keeps ``site``: record with ``keep=["resid_post"]``, or with
            ``keep=["resid_pre"], layers=[0]`` for what the projector hands to the LLM.
        other: of the same clips at another rate.
        site: which kept states.
        centred: take each clip's mean state of the stream off first.
        draws: bootstrap resamples of the clips.
        seed: of the resamples.

    Returns:
        One row a layer and stream whose rate differs: ``layer paper_layer segment coarse_rate
        fine_rate expected`` (the ratio of the rates), ``clips``; means over clips, each with
        ``_low`` and ``_high`` (95 %, NaN for one clip): ``slope`` (fine tokens for a coarse one),
        ``slope_seconds`` (1 along the diagonal), ``deviation`` (seconds from a fine token's middle
        to the span of its best match), ``inside`` (share with none), ``offset`` (how much later
        the best match lies, seconds), ``partners`` (fine tokens that chose a coarse token, of
        those that were chosen). ``control_slope_seconds control_deviation control_inside`` are
        the same against the next clip's fine tokens, and ``above_slope_seconds above_deviation
        above_inside`` the clip's own less its control's, each with ``_low`` and ``_high``: both
        over the time that the two clips have in common, as fewer tokens match more often by
        chance. NaN for one clip. A clip without tokens of the stream is left out: ``clips`` says
        how many count.

    Raises:
        InputError: other clips or another model, no stream with two rates and tokens, no layer
            that both keep, or draws or a seed that are no whole number.
        SiteError: if a record does not hold the site.
    """
    refuse_other_clips(one, other, where="rate_similarity")
    layers = [layer for layer in layers_of(one[site]) if layer in layers_of(other[site])]
    check_whole("draws", draws, least=1)
    check_whole("seed", seed, least=0)
    if not layers:
        raise InputError(f"rate_similarity: no layer of {site} is in both; record the same layers.")
    rows = []
    for segment, coarse, fine in _streams(one, other):
        rates = {"coarse_rate": rate_of(coarse, segment), "fine_rate": rate_of(fine, segment)}
        clips = _clips(coarse, fine, segment)
        weights = bootstrap_weights(len(clips), draws=draws, seed=seed)
        for layer in layers:
            place = {"layer": layer, "paper_layer": paper_layer(layer), "segment": segment}
            ratio = {"expected": rates["coarse_rate"] / rates["fine_rate"], "clips": len(clips)}
            options: dict[str, Any] = {"site": site, "layer": layer, "centred": centred}
            numbers = _numbers(coarse, fine, segment, clips, weights, options)
            rows.append(place | rates | ratio | numbers)
    attrs = {"table": "rate_similarity", "site": site, "centred": centred, "draws": draws}
    return make_table(pd.DataFrame(rows), one, attrs | {"seed": seed})


def clip_match(
    one: Record,
    other: Record,
    *,
    layer: int,
    segment: str = "audio",
    sample: int = 0,
    site: str = "resid_post",
    centred: bool = False,
) -> TokenMatch:
    """The match of one clip's tokens in one layer; arguments as in ``rate_similarity``.

    Raises:
        InputError: if the stream has one rate in both, or there is no such layer or sample.
        SiteError: if a record does not hold the site.
    """
    refuse_other_clips(one, other, where="clip_match")
    found = {name: (coarse, fine) for name, coarse, fine in _streams(one, other)}
    if segment not in found:
        raise InputError(
            f"clip_match: {segment!r} does not have two rates here; use {' or '.join(found)}."
        )
    for record in found[segment]:
        if layer not in layers_of(record[site]) or not 0 <= sample < len(record):
            raise InputError(
                f"clip_match: there is no layer {layer} or no sample {sample}; {site} is kept in "
                f"layers {layers_of(record[site])} of {len(record)} samples."
            )
    options = {"site": site, "layer": layer, "centred": centred}
    return _match(*found[segment], segment, (sample, sample), options)


def _streams(one: Record, other: Record) -> Iterator[tuple[str, Record, Record]]:
    """Each stream with two rates: its name, the record with fewer tokens, that with more."""
    found = False
    for segment in STREAMS:
        if not _clips(one, other, segment):
            continue
        rates = [rate_of(record, segment) for record in (one, other)]
        if rates[0] == rates[1]:
            continue
        found = True
        yield (segment, *((one, other) if rates[0] > rates[1] else (other, one)))
    if not found:
        raise InputError(
            "rate_similarity: no stream has tokens at two rates in these records; record them with "
            "record_rates at pairs that differ."
        )


def _clips(one: Record, other: Record, segment: str) -> list[int]:
    """The clips that have tokens of a segment in both records."""
    pairs = enumerate(zip(one.layouts, other.layouts, strict=True))
    return [i for i, both in pairs if all(layout.mask(segment).any() for layout in both)]


def _match(
    coarse: Record,
    fine: Record,
    segment: str,
    samples: tuple[int, int],
    options: dict[str, Any],
    end: float = np.inf,
) -> TokenMatch:
    """The match of two samples in the time that both have, ``end`` (seconds) at most."""
    states, seconds = [], []
    for record, sample in zip((coarse, fine), samples, strict=True):
        layout = record.layouts[sample]
        tokens = np.flatnonzero(layout.mask(segment))
        if not len(tokens):
            raise InputError(f"rate_similarity: sample {sample} has no {segment} token.")
        kept = record[options["site"]].isel(sample=sample).sel(layer=options["layer"])
        states.append(kept.values[tokens].astype(np.float64))
        seconds.append(layout.seconds[tokens])
    end = min(end, *(spans[-1, 1] for spans in seconds))
    both = [spans[:, 0] < end - 1e-9 for spans in seconds]
    return match_tokens(
        states[0][both[0]],
        states[1][both[1]],
        coarse_seconds=seconds[0][both[0]],
        fine_seconds=seconds[1][both[1]],
        centred=options["centred"],
    )


def _numbers(
    coarse: Record,
    fine: Record,
    segment: str,
    clips: list[int],
    weights: Int[np.ndarray, "draw sample"],
    options: dict[str, Any],
) -> dict[str, float]:
    """Means over clips, of them against the control, and their intervals."""
    own = [_match(coarse, fine, segment, (i, i), options) for i in clips]
    row = _told(NUMBERS, _table_of(own, NUMBERS), weights)
    names = [f"{kind}_{name}" for kind in ("control", "above") for name in CONTROLS]
    if len(clips) < 2:
        return row | _told(names, np.full((1, len(names)), np.nan), weights)
    shuffled, cut = [], []
    for i, j in zip(clips, [*clips[1:], clips[0]], strict=True):
        shuffled.append(_match(coarse, fine, segment, (i, j), options))
        end = min(_end(record, segment, k) for record in (coarse, fine) for k in (i, j))
        cut.append(_match(coarse, fine, segment, (i, i), options, end))
    control = _table_of(shuffled, CONTROLS)
    return row | _told(names, np.hstack([control, _table_of(cut, CONTROLS) - control]), weights)


def _end(record: Record, segment: str, sample: int) -> float:
    """When the last token of a segment ends, seconds."""
    layout = record.layouts[sample]
    return float(layout.seconds[layout.mask(segment)][-1, 1])


def _table_of(
    matches: Sequence[TokenMatch], names: Sequence[str]
) -> Float[np.ndarray, "sample number"]:
    return np.array([[_number(match, name) for name in names] for match in matches])


def _told(
    names: Sequence[str],
    values: Float[np.ndarray, "sample number"],
    weights: Int[np.ndarray, "draw sample"],
) -> dict[str, float]:
    """Each number's mean over clips, with its interval."""
    point, low, high = bootstrap_interval(lambda drawn: _means(drawn, values), weights)
    row: dict[str, float] = {}
    for i, name in enumerate(names):
        row |= {name: point[i], f"{name}_low": low[i], f"{name}_high": high[i]}
    return row


def _number(match: TokenMatch, name: str) -> float:
    if name == "partners":
        return float(match.partners[match.partners > 0].mean())
    return float(getattr(match, name))


def _means(
    drawn: Float[np.ndarray, "draw sample"], values: Float[np.ndarray, "sample number"]
) -> Float[np.ndarray, "draw number"]:
    """Weighted means over the clips that have the number."""
    known = np.isfinite(values)
    counts = drawn @ known
    sums = drawn @ np.where(known, values, 0.0)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
