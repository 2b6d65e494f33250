"""record_rates: the same clips through one model at several rates, one record a pair."""

from collections.abc import Sequence
from typing import Any

from sinkscope.errors import InputError
from sinkscope.probes.probe import record
from sinkscope.record import Record
from sinkscope.subjects.subject import load

__all__ = ["record_rates"]


def record_rates(
    subject: Any, clips: Any, pairs: Sequence[tuple[int, int]], **given: Any
) -> dict[tuple[int, int], Record]:
    """Record the same clips at several pairs of rates.

    Args:
        subject: an audio-visual LLM, or what ``load`` makes one of.
        clips: a clip or several.
        pairs: (audio rate, video rate), encoder frames a token, each once. A model that has one
            stream only takes no notice of the other's rate.
        **given: what ``record`` takes, such as ``keep=["resid_post"]`` for ``rate_similarity``,
            ``layers`` or ``prepend_bos``.

    Returns:
        One record a pair, in the order of ``pairs``.

    Raises:
        InputError: no pair or one twice, a rate that the model was not trained for, or a subject
            without rates.

    Example:
        >>> import sinkscope as ss
        >>> records = ss.record_rates("tiny-avsr", ss.read_clip("clip.mp4"),
        ...     [(4, 2), (16, 5)])                                   # doctest: +SKIP
    """
    subject = load(subject)
    if not hasattr(subject, "with_options"):
        raise InputError(
            f"record_rates: {subject.name} has no rates; give an audio-visual LLM of this package."
        )
    if not pairs or len(set(pairs)) != len(pairs):
        raise InputError(f"record_rates: the pairs are {list(pairs)}; give each pair once.")
    return {
        (audio, video): record(
            subject.with_options(audio_rate=audio, video_rate=video), clips, **given
        )
        for audio, video in pairs
    }
