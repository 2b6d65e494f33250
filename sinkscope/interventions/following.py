"""follow_sinks: runs encoders and LLM on the same input and follows every sink back.

Example:
    >>> import sinkscope as ss
    >>> ss.follow_sinks("tiny-avsr", ss.read_clip("clip.mp4"))      # doctest: +SKIP
"""

from typing import Any

import pandas as pd

from sinkscope.analysis.ancestry import WHICH, concluded, judged_tokens
from sinkscope.analysis.finding import find_sinks
from sinkscope.errors import InputError, SiteError, UnknownFamilyError
from sinkscope.probes.probe import default_reducers, record
from sinkscope.probes.reducers import Norms
from sinkscope.record import Record, merge
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
    ``sink_ancestry`` for what is made of it. Several inputs are followed one at a time, and one
    control is drawn for all.

    Args:
        subject: an audio-visual LLM of this package or a multimodal model of transformers, or
            anything that ``load`` makes one of.
        data: a clip, or what the model's processor made of one conversation (or batch); or a
            sequence of these.
        which: ``"sinks"``, or ``"high_norm"`` for the tokens that encoder or projector show.
        ratio: norm over the median of the stream, from which on it is high.
        **thresholds: of ``find_sinks``.

    Returns:
        The table of ``sink_ancestry``, its samples those of all inputs in order.
        ``attrs["skipped"]`` says why a stream of the input is not in it: its encoder cannot be
        recorded.

    Raises:
        InputError: the subject has no encoders; or none of the inputs has a stream whose encoder
            can be recorded.
    """
    if which not in WHICH:
        raise InputError(f"follow_sinks: which is {which!r}; choose {' or '.join(WHICH)}.")
    whole = load(subject)
    if getattr(whole, "encoder", None) is None:
        raise InputError(
            f"{whole.name} has no encoder, so no sink of it can be inherited from one."
        )
    reducers = (*default_reducers(whole), Norms("resid_pre", layers=(0,)))
    records: list[Record] = []
    judged: dict[str, list[pd.DataFrame]] = {}
    skipped: dict[str, str] = {}
    samples = 0
    for one in data if isinstance(data, list | tuple) else [data]:
        seen = record(whole, one, reducers=reducers)
        parts = _encoders(whole, seen, one, skipped)
        if parts:
            sinks = find_sinks(seen, **thresholds)
            for stream, table in judged_tokens(seen, sinks, parts, ratio=ratio).items():
                judged.setdefault(stream, []).append(table.assign(sample=table["sample"] + samples))
        records.append(seen)
        samples += len(seen)
    if not judged:
        raise _nothing(whole, skipped)
    joined = {name: pd.concat(found, ignore_index=True) for name, found in judged.items()}
    table = concluded(joined, merge(records), which=which, ratio=ratio)
    table.attrs["skipped"] = skipped
    return table


def _encoders(whole: Any, seen: Record, data: Any, skipped: dict[str, str]) -> dict[str, Record]:
    """A record of the encoder of every stream of the input; the others' reasons are noted."""
    found = {}
    for stream in _STREAMS:
        if any(layout.mask(stream).any() for layout in seen.layouts):
            try:
                found[stream] = record(whole.encoder(stream), data)
            except (InputError, SiteError, UnknownFamilyError) as error:
                skipped.setdefault(stream, str(error))
    return found


def _nothing(whole: Any, skipped: dict[str, str]) -> InputError:
    why = "".join(f" {stream}: {reason}" for stream, reason in skipped.items())
    return InputError(
        f"{whole.name}: the input has no token of a stream whose encoder can be recorded.{why}"
    )
