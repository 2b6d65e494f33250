"""follow_sinks: runs encoders and LLM on the same input and follows every sink back.

Example:
    >>> import sinkscope as ss
    >>> ss.follow_sinks("tiny-avsr", ss.read_clip("clip.mp4"))      # doctest: +SKIP
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sinkscope.analysis.ancestry import sink_ancestry
from sinkscope.analysis.finding import find_sinks
from sinkscope.errors import InputError
from sinkscope.probes.probe import default_reducers, record
from sinkscope.probes.reducers import Norms
from sinkscope.record import Record
from sinkscope.subjects.subject import load

__all__ = ["follow_sinks"]

_STREAMS = ("audio", "image", "video", "audiovisual")


def follow_sinks(
    subject: Any,
    data: Any,
    *,
    which: str = "sinks",
    ratio: float | int = 3.0,
    **thresholds: Any,
) -> pd.DataFrame:
    """Where each sink on a token of sound or picture first shows: encoder, projector or LLM.

    The encoders of the streams that the input has and the LLM are recorded on the same input; see
    ``sink_ancestry`` for what is made of it.

    Args:
        subject: an audio-visual LLM of this package or a multimodal model of transformers, or
            anything that ``load`` makes one of.
        data: one clip, or what the model's processor made of one conversation (or batch).
        which: ``"sinks"``, or ``"high_norm"`` for the tokens that encoder or projector show.
        ratio: norm over the median of the stream, from which on it is high.
        **thresholds: of ``find_sinks``.

    Raises:
        InputError: the subject has no encoders; or none of the input's streams has one that is
            known.
    """
    whole = load(subject)
    encoder = getattr(whole, "encoder", None)
    if encoder is None:
        raise InputError(
            f"{whole.name} has no encoder, so no sink of it can be inherited from one."
        )
    reducers = (*default_reducers(whole), Norms("resid_pre", layers=(0,)))
    seen = record(whole, data, reducers=reducers)
    parts = _encoders(encoder, seen, data)
    if not parts:
        raise InputError(
            f"{whole.name}: the input has no token of a stream whose encoder can be recorded."
        )
    return sink_ancestry(seen, find_sinks(seen, **thresholds), parts, which=which, ratio=ratio)


def _encoders(encoder: Any, seen: Record, data: Any) -> Mapping[str, Record]:
    """A record of the encoder of every stream that the input has."""
    found = {}
    for stream in _STREAMS:
        if any(layout.mask(stream).any() for layout in seen.layouts):
            found[stream] = record(encoder(stream), data)
    return found
