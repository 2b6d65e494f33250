"""From the parts of an audio-visual sample to its TokenLayout, and from a clip to its summary."""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from sinkscope.avsr.clip import SAMPLE_RATE, Clip
from sinkscope.avsr.descriptors import describe_tokens
from sinkscope.avsr.model import Span
from sinkscope.errors import InputError
from sinkscope.glossary import BOS, PADDING
from sinkscope.layout import TokenLayout
from sinkscope.record import ClipSummary
from sinkscope.subjects.layouts import pad_layout

__all__ = ["LABELS", "SEGMENT_OF", "describe", "layout_of_spans", "summarise"]

SEGMENT_OF = {
    "bos": BOS,
    "audio_open": "delimiter",
    "audio": "audio",
    "audio_close": "delimiter",
    "video_open": "delimiter",
    "video": "video",
    "video_close": "delimiter",
    "audiovisual": "audiovisual",
    "prompt": "instruction",
    "transcript": "response",
    "eos": "response",
    "padding": PADDING,
}
"""The segment that each part of a sample belongs to."""

LABELS = {"audio": "a", "video": "v", "audiovisual": "av"}
"""What the labels of projected tokens begin with."""

ENVELOPE_RATE = 100
"""Parts a second of a clip's envelope."""


def layout_of_spans(
    spans: Sequence[Span], words: Sequence[str], real: Bool[np.ndarray, " token"], clip: Clip
) -> TokenLayout:
    """The layout of one sample from the parts that it was put together from.

    Args:
        spans: the parts of the sample; together they cover every position.
        words: a label of each position that holds a vocabulary entry.
        real: true where a position holds a token, shape (token,).
        clip: where the audio and video tokens come from.

    Returns:
        The layout of all positions; audio tokens are called a0, a1 ..., video tokens v0, v1 ...,
        tokens of both av0, av1 ...

    Raises:
        InputError: if the spans leave a position out, or know of no such part.
    """
    segments, labels = [PADDING] * len(real), list(words)
    seconds = np.full((len(real), 2), np.nan)
    covered = np.zeros(len(real), dtype=int)
    for span in spans:
        if span.name not in SEGMENT_OF:
            raise InputError(f"{clip.name}: a sample has no part {span.name!r}.")
        covered[span.start : span.stop] += 1
        for i in range(span.start, span.stop):
            segments[i] = SEGMENT_OF[span.name]
            if span.name in LABELS:
                labels[i] = f"{LABELS[span.name]}{i - span.start}"
        if span.times is not None:
            seconds[span.start : span.stop] = span.times
    if (covered[real] != 1).any() or (np.array(segments)[real] == PADDING).any():
        raise InputError(f"{clip.name}: the parts of the sample do not cover every token once.")
    tokens = np.flatnonzero(real)
    layout = TokenLayout.of(
        [segments[i] for i in tokens],
        [labels[i] for i in tokens],
        seconds=seconds[tokens],
        descriptors=describe(clip, seconds[tokens]),
    )
    return pad_layout(layout, real)


def describe(clip: Clip, seconds: Float[np.ndarray, "token 2"]) -> dict[str, np.ndarray]:
    """What the tokens are, as floats and strings; NaN and "" where that is unknown."""
    table = dict(describe_tokens(clip, seconds))
    unknown = np.isnan(table["loudness_db"])
    table["silence"] = np.where(unknown, np.nan, table["silence"].astype(float))
    table["phoneme"] = table["phoneme"].astype(str)
    return table


def summarise(clip: Clip) -> ClipSummary:
    """What a reader of a record wants to know of a clip, with its envelope at 100 a second."""
    return ClipSummary(
        name=clip.name,
        path="" if clip.path is None else str(clip.path),
        duration=clip.duration,
        text=clip.text or "",
        envelope=_envelope(clip),
        envelope_rate=float(ENVELOPE_RATE),
        notes=list(clip.notes),
        picture=_hash(clip.frames),
    )


def _hash(frames: np.ndarray | None) -> str:
    if frames is None:
        return ""
    digest = hashlib.blake2b(str((frames.dtype, frames.shape)).encode(), digest_size=12)
    digest.update(np.ascontiguousarray(frames).data)
    return digest.hexdigest()


def _envelope(clip: Clip) -> list[list[float]]:
    if clip.waveform is None or not len(clip.waveform):
        return []
    part = SAMPLE_RATE // ENVELOPE_RATE
    parts = -(-len(clip.waveform) // part)
    padded = np.pad(clip.waveform, (0, parts * part - len(clip.waveform)), mode="edge")
    rows = padded.reshape(parts, part)
    return np.stack([rows.min(axis=1), rows.max(axis=1)], axis=1).round(4).tolist()
