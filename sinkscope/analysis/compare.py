"""compare: what a fine-tuning changed, clip by clip and token by token. Depends on record."""

from dataclasses import asdict, replace
from typing import Any

import pandas as pd
from jaxtyping import Int
from numpy import ndarray

from sinkscope.analysis.bootstrap import LEVEL, bootstrap_weights
from sinkscope.analysis.clip_numbers import clip_numbers, loss_layers, number_changes
from sinkscope.analysis.comparison import Comparison
from sinkscope.analysis.feature_changes import feature_changes
from sinkscope.analysis.flow import segment_attention
from sinkscope.analysis.massive import find_massive_activations
from sinkscope.analysis.paired import paired_change
from sinkscope.analysis.pairing import clip_names, one_ratio, refuse_unpaired
from sinkscope.analysis.set_changes import layer_changes, set_changes
from sinkscope.analysis.similarity_changes import similarity_changes, similarity_summary
from sinkscope.analysis.sink_changes import sink_changes, sink_tally
from sinkscope.analysis.tables import bos_present
from sinkscope.analysis.thresholds import Thresholds
from sinkscope.analysis.verdict import sink_attention
from sinkscope.errors import InputError
from sinkscope.record import Record

__all__ = ["compare"]

_PAIR = ["query_segment", "key_segment"]
_WER = ("words", "errors_before", "errors_after")
_TEXTS = ("transcript_before", "transcript_after")


def compare(
    before: Record,
    after: Record,
    *,
    thresholds: Thresholds | None = None,
    wer: pd.DataFrame | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Which massive features, sinks and directions stayed, vanished or came, and by how much.

    Both records are of the same clips in the same order, so every clip and every token is its own
    control. Intervals are 95 % percentile bootstrap intervals over clips; one clip has none.

    Args:
        before: of the first model, for example without the decorrelation loss.
        after: of the second: a checkpoint of the same architecture, recorded alike.
        thresholds: what counts as a sink and as massive, in both; the defaults if left out.
        wer: the word errors of both models: one row a clip with ``words errors_before
            errors_after`` (``transcript_errors`` makes it), and ``transcript_before
            transcript_after`` if you like.
        draws: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        Tables; ``describe(comparison)`` puts them in words.

    Raises:
        InputError: if the two cannot be compared token by token, or carry different ratios.
        SiteError: if a record lacks attention statistics, largest features or cosines.

    Example:
        >>> import sinkscope as ss
        >>> before = ss.record(ss.load("tiny-avsr"), clips)          # doctest: +SKIP
        >>> after = ss.record(ss.load("my-decorrelated"), clips)     # doctest: +SKIP
        >>> print(ss.describe(ss.compare(before, after)))            # doctest: +SKIP
    """
    refuse_unpaired(before, after)
    rules = thresholds or Thresholds()
    ratio, source = one_ratio(before, after, rules.ratio)
    rules = replace(rules, ratio=ratio)
    names = ("threshold", "min_heads", "min_queries")
    chosen = {name: asdict(rules)[name] for name in names}
    found = tuple(sink_attention(record, **chosen) for record in (before, after))
    massive = tuple(find_massive_activations(record, ratio=ratio) for record in (before, after))
    weights = bootstrap_weights(len(before), draws=draws, seed=seed)
    sinks = sink_changes(before, found[0], found[1])
    similarity = similarity_changes(before, after)
    numbers = [
        clip_numbers(record, own, table, cosine=rules.cosine)
        for record, own, table in zip((before, after), found, massive, strict=True)
    ]
    if wer is not None:
        _refuse_bad_errors(wer, len(before))
    tables = {
        "features": feature_changes(before, after, (massive[0], massive[1]), weights),
        "feature_sets": set_changes(massive[0], massive[1], weights),
        "sinks": sinks,
        "sink_tally": sink_tally(sinks),
        "similarity": similarity,
        "similarity_summary": similarity_summary(similarity, cosine=rules.cosine, weights=weights),
        "attention": _attention(before, after, weights),
        "layers": layer_changes(before, massive[0], massive[1]),
        "effects": number_changes(numbers[0], numbers[1], wer, weights),
        "clips": _clips(before, numbers, wer),
    }
    said = {
        "before": _name(before),
        "after": _name(after),
        "ratio_threshold": ratio,
        "ratio_source": source,
        **chosen,
        "cosine": rules.cosine,
        "samples": len(before),
        "bos_present": bos_present(before),
        "truncated": any(table.attrs["truncated"] for table in massive),
        "loss_layers": loss_layers(before),
        "level": LEVEL,
        "draws": draws,
        "seed": seed,
    }
    for name, table in tables.items():
        table.attrs = {**table.attrs, **said, "table": f"comparison_{name}"}
    return Comparison(_name(before), _name(after), rules, **tables)


def _attention(before: Record, after: Record, weights: Int[ndarray, "draw sample"]) -> pd.DataFrame:
    """Attention between segments in every layer, and how it moves."""
    wide = [
        segment_attention(record).pivot(
            index="sample", columns=["layer", "paper_layer", *_PAIR], values="attention"
        )
        for record in (before, after)
    ]
    wide = [table.reindex(index=range(len(before)), columns=wide[0].columns) for table in wide]
    moved = paired_change(wide[0].to_numpy(), wide[1].to_numpy(), weights)
    return pd.concat([wide[0].columns.to_frame(index=False), moved], axis=1)


def _clips(record: Record, numbers: list[pd.DataFrame], wer: pd.DataFrame | None) -> pd.DataFrame:
    """The numbers of every clip, before and after."""
    columns: dict[str, Any] = {"sample": range(len(record)), "clip": clip_names(record)}
    columns["text"] = [clip.text if clip else "" for clip in record.clips]
    for name in numbers[0]:
        columns |= {f"{name}_before": numbers[0][name], f"{name}_after": numbers[1][name]}
    if wer is not None:
        columns |= {name: wer[name].to_numpy() for name in (*_WER, *_TEXTS) if name in wer}
    return pd.DataFrame(columns)


def _refuse_bad_errors(wer: pd.DataFrame, clips: int) -> None:
    missing = [name for name in _WER if name not in wer]
    if missing:
        raise InputError(
            f"compare: wer has no column {missing[0]!r}; give one row a clip with "
            f"{', '.join(_WER)} (transcript_errors makes such a table)."
        )
    if len(wer) != clips:
        raise InputError(f"compare: wer has {len(wer)} rows for {clips} clips; give one a clip.")


def _name(record: Record) -> str:
    return str(record.provenance.get("subject") or "a model that was not named")
