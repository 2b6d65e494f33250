"""The lines of an evaluation's table: what is read, what it is heard in, and at which rates."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from numbers import Real

from sinkscope.avsr.config import AvsrConfig, Modality
from sinkscope.avsr.decoding import Decoding
from sinkscope.avsr.evaluation.conditions import Condition
from sinkscope.avsr.passes import STREAMS, StreamRates
from sinkscope.avsr.streams import chosen_rate
from sinkscope.errors import InputError

__all__ = ["EVERY", "Case", "Rates", "pairs_of_modality", "pairs_of_model"]

EVERY = "all"
"""Every pair of the model's own rates."""

Rates = Sequence[tuple[int, int]] | str
"""Pairs of an audio rate and a video rate, in this order; or ``"all"``."""


@dataclass(frozen=True)
class Case:
    """A modality in a condition.

    Attributes:
        modality: what is read.
        condition: what it is heard in.
        pair: encoder frames a token of audio and of video, None of a stream that is not read; None
            where one pair holds for the whole evaluation.
    """

    modality: Modality
    condition: Condition
    pair: StreamRates | None = None

    def place(self, utterance: int) -> tuple[int | None, str | None, str | None, StreamRates]:
        """What only one row is about."""
        return utterance, self.modality, self.condition.name, self.pair or (None, None)

    def decoding(self, search: Decoding) -> Decoding:
        """The search at this pair of rates."""
        if self.pair is None:
            return search
        audio, video = self.pair
        return replace(search, audio_rate=audio, video_rate=video)


def pairs_of_model(rates: Rates | None, config: AvsrConfig) -> list[tuple[int, int]] | None:
    """The pairs that are asked for, each once; ``"all"`` has the audio rate as its outer loop.

    Raises:
        InputError: no pair, something else than pairs, or a rate that the model does not fit.
    """
    if rates is None:
        return None
    if isinstance(rates, str) and rates == EVERY:
        seen = "audiovisual" if config.streams == ("audiovisual",) else "video"
        return list(
            product(dict.fromkeys(config.rates("audio")), dict.fromkeys(config.rates(seen)))
        )
    if isinstance(rates, str) or not isinstance(rates, Sequence) or not _are_pairs(rates):
        raise InputError(
            f"The rates are {rates!r}; give pairs of an audio rate and a video rate, or 'all'."
        )
    for audio, video in rates:
        for stream in config.streams:
            chosen_rate(stream, audio if stream == "audio" else video, config)
    return list(dict.fromkeys((int(audio), int(video)) for audio, video in rates))


def _are_pairs(rates: Sequence[object]) -> bool:
    """Whether there is a pair, and nothing but pairs of numbers."""
    return bool(rates) and all(
        isinstance(pair, list | tuple)
        and len(pair) == len(("audio", "video"))
        and all(isinstance(rate, Real) for rate in pair)
        for pair in rates
    )


def pairs_of_modality(
    modality: Modality, pairs: Sequence[tuple[int, int]] | None, config: AvsrConfig
) -> list[StreamRates | None]:
    """The pairs at which a modality is read: one stream alone at each of its rates once."""
    if pairs is None:
        return [None]
    read = STREAMS[modality] if len(config.streams) > 1 else config.streams
    own = (
        (audio if "audio" in read else None, None if read == ("audio",) else video)
        for audio, video in pairs
    )
    return list(dict.fromkeys(own))
