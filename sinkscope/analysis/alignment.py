"""From a token of the LLM to the encoder frames that made it. Depends on record.

Two records of one clip are put together by seconds: that of the audio-visual LLM and that of one
of its encoders. So a sink can be followed back: was it one before the LLM saw it?

Example:
    >>> seconds = np.array([[np.nan, np.nan], [0.0, 0.04], [0.04, 0.08]])
    >>> tokens = TokenLayout.of(["bos", "audio", "audio"], ["<s>", "a0", "a1"], seconds=seconds)
    >>> frames = TokenLayout.of(["audio"] * 5, list("01234"),
    ...     seconds=np.stack([np.arange(5), np.arange(1, 6)], axis=1) / 50)
    >>> [found.tolist() for found in frames_of_token(tokens, frames)]
    [[], [0, 1], [2, 3]]
"""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Int

from sinkscope.analysis.criteria import ratio_to_median
from sinkscope.analysis.descriptors import descriptor_columns
from sinkscope.analysis.tables import check_number, layers_of, token_table
from sinkscope.analysis.verdict import sink_attention
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.record import Record

__all__ = ["frames_of_token", "in_encoder"]

STREAMS = ("audio", "video", "audiovisual")


def frames_of_token(
    llm_layout: TokenLayout, encoder_layout: TokenLayout
) -> tuple[Int[np.ndarray, " frame"], ...]:
    """The encoder frames that each token of the LLM was made of, by the seconds of both.

    A frame belongs to the token of its own segment (``audio``, ``video`` or ``audiovisual``) in
    whose seconds its middle lies, so that no frame belongs to two. Frames that the projector left
    over, and silence that the encoder appended, belong to none.

    Args:
        llm_layout: of a sample of the audio-visual LLM.
        encoder_layout: of the same clip in one encoder.

    Returns:
        One array of frame numbers a token; empty for BOS, text, delimiters and other streams.

    Raises:
        InputError: if the encoder's layout has no audio or video frame with seconds.
    """
    middle = encoder_layout.seconds.mean(axis=1)
    if not (encoder_layout.mask(*STREAMS) & np.isfinite(middle)).any():
        raise InputError(
            "frames_of_token: the second layout has no audio or video frame with seconds; give "
            "that of an encoder's record."
        )
    found = []
    for segment, (start, end) in zip(llm_layout.segments, llm_layout.seconds, strict=True):
        inside = (middle >= start) & (middle < end)
        own = encoder_layout.mask(segment) if segment in STREAMS else np.zeros(len(middle), bool)
        found.append(np.flatnonzero(inside & own))
    return tuple(found)


def in_encoder(
    sinks: pd.DataFrame,
    record: Record,
    encoder_record: Record,
    *,
    threshold: float = 0.3,
    min_heads: float = 0.5,
    min_queries: int = 8,
) -> pd.DataFrame:
    """What the frames of the LLM's sinks were in the encoder, layer by layer.

    Args:
        sinks: what ``find_sinks`` returned for ``record`` (only ``sample`` and ``token`` are read;
            each token counts once).
        record: of the audio-visual LLM.
        encoder_record: of one of its encoders, on the same clips in the same order.
        threshold: as in ``find_sinks``, for the encoder's frames.
        min_heads: the same.
        min_queries: the same.

    Returns:
        ``TABLE_COLUMNS`` of the encoder's frames, then ``llm_token llm_label`` (the sink that the
        frame is a part of), ``alpha`` (key attention in the encoder, mean over heads), ``is_sink``
        (there), both missing where the encoder has no attention, ``ratio`` (largest |x| of the
        frame over the layer's median), and what the frame is. Sinks of no audio or video token
        give no row; ``attrs["without_frames"]`` counts them.

    Raises:
        InputError: if the records are not of the same clips, or a threshold is out of range.
    """
    check_number("threshold", threshold, up_to=1.0)
    _refuse_unlike(record, encoder_record)
    tokens = sorted({*zip(sinks["sample"].astype(int), sinks["token"].astype(int), strict=True)})
    members = [(s, t, frame) for s, t in tokens for frame in _frames(record, encoder_record, s, t)]
    ratio = ratio_to_median(encoder_record)
    alpha, is_sink = _attention(
        encoder_record,
        ratio,
        {"threshold": threshold, "min_heads": min_heads, "min_queries": min_queries},
    )
    places = np.arange(ratio.sizes["layer"])
    sample, token, frame = np.array(members, np.int64).reshape(-1, 3).T.repeat(len(places), axis=1)
    cells = (sample, np.tile(places, len(members)), frame)
    columns = {
        "llm_token": token,
        "llm_label": _labels(record, sample, token),
        "alpha": alpha[cells],
        "is_sink": pd.array(is_sink[cells], dtype="boolean"),
        "ratio": ratio.values[cells],
        **descriptor_columns(encoder_record, sample, frame),
    }
    attrs: dict[str, Any] = {
        "table": "in_encoder",
        "threshold": threshold,
        "min_heads": min_heads,
        "min_queries": min_queries,
        "llm": record.provenance.get("subject"),
        "sinks": len(tokens),
        "without_frames": len(tokens) - len({(s, t) for s, t, _ in members}),
    }
    return token_table(encoder_record, cells, layers_of(ratio), columns, attrs=attrs)


def _frames(record: Record, encoder_record: Record, sample: int, token: int) -> list[int]:
    if not (0 <= sample < len(record) and 0 <= token < len(record.layouts[sample])):
        raise InputError(
            f"in_encoder: the table names token {token} of sample {sample}, which the record does "
            "not have; give the table that was made from it."
        )
    layouts = record.layouts[sample], encoder_record.layouts[sample]
    return frames_of_token(*layouts)[token].tolist()


def _attention(
    record: Record, like: xr.DataArray, thresholds: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Key attention and verdict at ``sample layer token``; NaN and None without attention."""
    if "segment_sum" not in record:
        return np.full(like.shape, np.nan), np.full(like.shape, None, object)
    found = sink_attention(record, **thresholds)
    layers = like["layer"].values
    alpha = found.alpha.reindex(layer=layers).values
    verdict = found.is_sink.astype(np.float64).reindex(layer=layers).values
    known = ~np.isnan(verdict)
    is_sink = np.full(verdict.shape, None, object)
    is_sink[known] = verdict[known].astype(bool)
    return alpha, is_sink


def _labels(record: Record, samples: np.ndarray, tokens: np.ndarray) -> pd.Series:
    labels = [record.layouts[s].labels[t] for s, t in zip(samples, tokens, strict=True)]
    return pd.Series(labels, dtype=object)


def _refuse_unlike(record: Record, encoder_record: Record) -> None:
    names = [[clip and clip.name for clip in one.clips] for one in (record, encoder_record)]
    if len(record) != len(encoder_record) or names[0] != names[1]:
        raise InputError(
            f"in_encoder: the records are of {len(record)} and {len(encoder_record)} samples "
            f"({names[0]} and {names[1]}); give those of the same clips in the same order."
        )
