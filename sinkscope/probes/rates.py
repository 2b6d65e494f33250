"""record_rates: the same clips through one model at several rates, one record a pair."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from sinkscope.errors import InputError
from sinkscope.probes.probe import record
from sinkscope.record import Record
from sinkscope.subjects.subject import load

__all__ = ["record_rates"]

RATES = ("audio_rate", "video_rate")


def record_rates(
    subject: Any, clips: Any, pairs: Sequence[Any], **given: Any
) -> dict[tuple[int, int], Record]:
    """Record the same clips at several pairs of rates.

    Args:
        subject: an audio-visual LLM, or what ``load`` makes one of.
        clips: a clip or several.
        pairs: at least two of (audio rate, video rate), encoder frames a token, each once. A model
            that has one stream only takes no notice of the other's rate.
        **given: what ``record`` takes, such as ``keep=["resid_post"]`` for ``rate_similarity``,
            ``layers`` or ``prepend_bos``.

    Returns:
        One record a pair, in the order of ``pairs``.

    Raises:
        InputError: fewer than two pairs, one twice or none of two numbers, a rate that the model
            cannot have, or a subject without rates; all of them before anything is recorded.

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
    subjects = {
        (audio, video): subject.with_options(audio_rate=audio, video_rate=video)
        for audio, video in _whole_pairs(pairs)
    }
    return {pair: record(chosen, clips, **given) for pair, chosen in subjects.items()}


def _whole_pairs(pairs: Sequence[Any]) -> list[tuple[int, int]]:
    """The pairs as tuples; anything else is refused before the first forward."""
    found = []
    for pair in pairs:
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != len(RATES):
            raise InputError(f"record_rates: {pair!r} is no pair (audio rate, video rate).")
        if not all(isinstance(rate, Integral) and not isinstance(rate, bool) for rate in pair):
            raise InputError(f"record_rates: the rates of {pair!r} are no whole numbers.")
        found.append((int(pair[0]), int(pair[1])))
    if len(found) < 2 or len(set(found)) != len(found):
        raise InputError(
            f"record_rates: the pairs are {list(pairs)}; give at least two, each pair once."
        )
    return found
