"""Records of one set of clips at several rates: are they fit to be compared? Depends on record.

A rate is the number of encoder frames that become one token; a pair is (audio rate, video rate).
All functions about rates take records by pair, as ``record_rates`` returns them.

Example:
    >>> rate_words((16, 5)), own_rate((16, 5), "video")
    ('(16, 5)', 5)
"""

from collections.abc import Mapping
from itertools import combinations

from sinkscope.errors import InputError
from sinkscope.record import Record

__all__ = [
    "STREAMS",
    "Pair",
    "check_rates",
    "own_rate",
    "rate_of",
    "rate_words",
    "refuse_other_clips",
]

Pair = tuple[int, int]
"""(audio rate, video rate): encoder frames a token."""


STREAMS = ("audio", "video", "audiovisual")
"""The segments that have a rate."""

ALIKE = (
    *("subject", "model_hash", "dtype", "modality"),
    *("stream_order", "prepend_bos", "with_transcript"),
)
"""What the provenance of records at several rates has in common."""


def rate_words(pair: Pair) -> str:
    """A pair as figures and sentences write it: (audio rate, video rate)."""
    return f"({pair[0]}, {pair[1]})"


def own_rate(pair: Pair, segment: str) -> int | None:
    """The rate of a segment's own stream; None where tokens are of none.

    Sound and picture that one encoder fuses come at the video rate.
    """
    return {"audio": pair[0], "video": pair[1], "audiovisual": pair[1]}.get(segment)


def check_rates(records: Mapping[Pair, Record], *, where: str) -> None:
    """Refuse records that are not of one model and one set of clips, alike but for the rates.

    Raises:
        InputError: fewer than two pairs, a record under a pair that is not its own, pairs that
            differ in nothing that was read, other clips, other layers, another model, or another
            way to record it.
    """
    if len(records) < 2:
        raise InputError(
            f"{where}: {len(records)} pairs of rates were given; record at least two of them with "
            "record_rates."
        )
    for pair, record in records.items():
        own = tuple(record.provenance.get(name) for name in ("audio_rate", "video_rate"))
        if tuple(pair) != own:
            raise InputError(
                f"{where}: under {pair} stands a record of rates {own}; give each record under its "
                "own (audio rate, video rate), as record_rates does."
            )
    for (pair, record), (later, other) in combinations(records.items(), 2):
        if _rates_read(pair, record) == _rates_read(later, other):
            raise InputError(
                f"{where}: {rate_words(pair)} and {rate_words(later)} differ only in a stream of "
                "which there is no token; leave one of them out."
            )
    (first, one), *others = records.items()
    for pair, other in others:
        refuse_other_clips(one, other, where=f"{where}: {rate_words(first)} and {rate_words(pair)}")
        if one.layers != other.layers:
            raise InputError(
                f"{where}: {rate_words(first)} holds layers {one.layers}, {rate_words(pair)} "
                f"{other.layers}; record the same layers at every rate."
            )


def rate_of(record: Record, segment: str) -> int:
    """The rate of a stream in one record.

    Raises:
        InputError: its provenance does not say it.
    """
    said = record.provenance
    rate = own_rate((said.get("audio_rate"), said.get("video_rate")), segment)  # pyright: ignore
    if not isinstance(rate, int):
        raise InputError(
            f"The record does not say the rate of its {segment} tokens; record it with "
            "record_rates."
        )
    return rate


def _rates_read(pair: Pair, record: Record) -> dict[str, int | None]:
    """The rate of every stream that some clip of a record has."""
    present = {name for layout in record.layouts for name in layout.segments}
    return {name: own_rate(pair, name) for name in STREAMS if name in present}


def refuse_other_clips(one: Record, other: Record, *, where: str) -> None:
    """Refuse two records that are not of one model and the same clips in the same order.

    Raises:
        InputError: naming what differs.
    """
    for key in ALIKE:
        if one.provenance.get(key) != other.provenance.get(key):
            raise InputError(
                f"{where}: the records differ in {key} ({one.provenance.get(key)!r} and "
                f"{other.provenance.get(key)!r}); record one model in one way."
            )
    names = [[clip.name if clip else "" for clip in record.clips] for record in (one, other)]
    if names[0] != names[1]:
        raise InputError(
            f"{where}: the records are of other clips ({len(names[0])}: {names[0][:3]} and "
            f"{len(names[1])}: {names[1][:3]}); record the same clips in the same order."
        )
