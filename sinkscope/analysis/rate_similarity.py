"""rate_similarity: do the tokens of one clip at two rates match along the clip's own time?

Depends on record. The numbers are those of ``rate_match``, over clips, with a shuffled-clip
control: tokens match by their place alone as well as the control's do.

Example:
    >>> import sinkscope as ss
    >>> records = ss.record_rates("tiny-avsr", clips, [(4, 2), (16, 5)],
    ...     keep=["resid_post"])                                        # doctest: +SKIP
    >>> ss.rate_similarity(*records.values())                           # doctest: +SKIP
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from sinkscope.analysis.bootstrap import bootstrap_interval, bootstrap_weights
from sinkscope.analysis.rate_match import TokenMatch, match_tokens
from sinkscope.analysis.rates import refuse_other_clips
from sinkscope.analysis.tables import layers_of, make_table
from sinkscope.errors import InputError
from sinkscope.glossary import paper_layer
from sinkscope.record import Record

__all__ = ["clip_match", "rate_similarity"]

STREAMS = ("audio", "video")
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
        those that were chosen); ``control_slope_seconds control_deviation control_inside`` are
        the same against the next clip's fine tokens, NaN for one clip.

    Raises:
        InputError: other clips or another model, no stream with two rates, or no tokens in it.
        SiteError: if a record does not hold the site.
    """
    refuse_other_clips(one, other, where="rate_similarity")
    layers = [layer for layer in layers_of(one[site]) if layer in layers_of(other[site])]
    weights = bootstrap_weights(len(one), draws=draws, seed=seed)
    rows = []
    for segment, coarse, fine in _streams(one, other):
        rates = {"coarse_rate": _rate(coarse, segment), "fine_rate": _rate(fine, segment)}
        for layer in layers:
            place = {"layer": layer, "paper_layer": paper_layer(layer), "segment": segment}
            ratio = {"expected": rates["coarse_rate"] / rates["fine_rate"], "clips": len(one)}
            options: dict[str, Any] = {"site": site, "layer": layer, "centred": centred}
            numbers = _numbers(coarse, fine, segment, weights, options)
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
        rates = [_rate(record, segment) for record in (one, other)]
        if rates[0] == rates[1] or not one.layouts[0].mask(segment).any():
            continue
        found = True
        yield (segment, *((one, other) if rates[0] > rates[1] else (other, one)))
    if not found:
        raise InputError(
            "rate_similarity: neither audio nor video tokens have two rates in these records; "
            "record them with record_rates at pairs that differ."
        )


def _rate(record: Record, segment: str) -> int:
    rate = record.provenance.get(f"{segment}_rate")
    if not isinstance(rate, int):
        raise InputError(
            f"rate_similarity: the record does not say its {segment} rate; record it with "
            "record_rates."
        )
    return rate


def _match(
    coarse: Record, fine: Record, segment: str, samples: tuple[int, int], options: dict[str, Any]
) -> TokenMatch:
    """The match of two samples; fine tokens that begin after the coarse ones end are left out."""
    states, seconds = [], []
    for record, sample in zip((coarse, fine), samples, strict=True):
        layout = record.layouts[sample]
        tokens = np.flatnonzero(layout.mask(segment))
        if not len(tokens):
            raise InputError(f"rate_similarity: sample {sample} has no {segment} token.")
        kept = record[options["site"]].isel(sample=sample).sel(layer=options["layer"])
        states.append(kept.values[tokens].astype(np.float64))
        seconds.append(layout.seconds[tokens])
    both = seconds[1][:, 0] < seconds[0][-1, 1]
    return match_tokens(
        states[0],
        states[1][both],
        coarse_seconds=seconds[0],
        fine_seconds=seconds[1][both],
        centred=options["centred"],
    )


def _numbers(
    coarse: Record,
    fine: Record,
    segment: str,
    weights: Int[np.ndarray, "draw sample"],
    options: dict[str, Any],
) -> dict[str, float]:
    """Means over clips with their intervals, and the control's."""
    clips = len(coarse)
    own = [_match(coarse, fine, segment, (i, i), options) for i in range(clips)]
    values = np.array([[_number(match, name) for name in NUMBERS] for match in own])
    point, low, high = bootstrap_interval(lambda drawn: _means(drawn, values), weights)
    row: dict[str, float] = {}
    for i, name in enumerate(NUMBERS):
        row |= {name: point[i], f"{name}_low": low[i], f"{name}_high": high[i]}
    shuffled = [
        _match(coarse, fine, segment, (i, (i + 1) % clips), options)
        for i in (range(clips) if clips > 1 else ())
    ]
    for name in CONTROLS:
        found = [_number(match, name) for match in shuffled]
        row[f"control_{name}"] = float(np.mean(found)) if found else float("nan")
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
