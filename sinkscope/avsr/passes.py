"""Which forwards a training step of a model with many rates makes: what is read, at which rates.

A step's loss is the mean over its passes of weight times cross-entropy. Order is (audio, video)
everywhere; where both have several rates, the video rates are the outer loop and the audio rates
the inner one. Depends on numpy.

Example:
    >>> [each.name for each in AllPairs((4, 16), (2, 5)).passes(step=0)]
    ['audiovisual 4:2', 'audiovisual 16:2', 'audiovisual 4:5', 'audiovisual 16:5']
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Protocol

import numpy as np

from sinkscope.avsr.rates import is_rate
from sinkscope.errors import InputError

__all__ = ["AllPairs", "Pass", "Passes", "SampledPair", "name_of_pair", "pairs_of"]

STREAMS = {"audio": ("audio",), "video": ("video",), "audiovisual": ("audio", "video")}
"""The streams of each modality, whose rates a pass has."""

AUDIOVISUAL = ("audiovisual",)

StreamRates = tuple[int | None, int | None]
"""Encoder frames a token of audio and of video; None for a stream that is not read."""


@dataclass(frozen=True)
class Pass:
    """One forward over the clips of a step.

    Attributes:
        modality: what is read: ``"audio"``, ``"video"`` or ``"audiovisual"``.
        audio_rate: encoder frames a token; None where no audio token is made.
        video_rate: the same for video, and for the one sequence of a joint encoder.
        weight: of its cross-entropy.
    """

    modality: str
    audio_rate: int | None = None
    video_rate: int | None = None
    weight: float | int = 1.0

    @property
    def name(self) -> str:
        """What a log calls it.

        >>> Pass("audio", 4).name, Pass("audiovisual", 4, 2, 1.5).name
        ('audio 4', 'audiovisual 4:2')
        """
        return f"{self.modality} {name_of_pair((self.audio_rate, self.video_rate))}"

    @property
    def rates(self) -> dict[str, int]:
        """Encoder frames a token, by stream.

        >>> Pass("video", None, 5).rates
        {'video': 5}
        """
        given = {"audio": self.audio_rate, "video": self.video_rate}
        return {stream: rate for stream, rate in given.items() if rate is not None}


class Passes(Protocol):
    """What says which passes a step makes; every step makes as many."""

    def passes(self, step: int) -> tuple[Pass, ...]:
        """The passes of a step, counted from 0; it depends on nothing but the step."""
        ...

    def possible(self) -> tuple[Pass, ...]:
        """Every pass that some step may make, each once."""
        ...


@dataclass(frozen=True)
class AllPairs:
    """Every rate in every step, as Llama-MTSK trains (arXiv 2503.06362).

    Sound alone is read at every audio rate, the picture alone at every video rate, and both at
    every pair.

    Attributes:
        audio: rates; empty for a model that makes no audio tokens.
        video: rates; likewise.
        modalities: what is learned, in the order of the passes.
        weights: of each modality's cross-entropy; 1 where it is not named.

    Raises:
        InputError: a modality whose rates are missing, or a rate or weight that is none.
    """

    audio: tuple[int, ...] = ()
    video: tuple[int, ...] = ()
    modalities: tuple[str, ...] = AUDIOVISUAL
    weights: Mapping[str, float | int] | None = None

    def __post_init__(self) -> None:
        _check("AllPairs", self.audio, self.video, self.modalities, self.weights)

    def passes(self, step: int) -> tuple[Pass, ...]:
        """All of them, whatever the step."""
        return self.possible()

    def possible(self) -> tuple[Pass, ...]:
        """Modality by modality, the video loop outside the audio loop."""
        return tuple(
            Pass(modality, *pair, _weight(self.weights, modality))
            for modality in self.modalities
            for pair in pairs_of(modality, self.audio, self.video)
        )


@dataclass(frozen=True)
class SampledPair:
    """One audio rate and one video rate a step, and a pass of each modality at them.

    So Omni-AVSR trains. Its public code adds the three losses up where a step's loss is their mean
    here: the gradient is a third of its.

    Attributes:
        audio: rates, each as likely as the others.
        video: rates, likewise.
        modalities: what is learned, in the order of the passes.
        weights: of each modality's cross-entropy; 1 where it is not named (Omni-AVSR: audio 1,
            video 1.5, audiovisual 1).
        seed: of the draws. A step's draw depends on seed and step alone.

    Raises:
        InputError: as `AllPairs`, or a seed below 0.

    >>> one, other = (SampledPair((4, 16), (2, 5), seed=3) for _ in range(2))
    >>> other.passes(1) == one.passes(1)
    True
    """

    audio: tuple[int, ...] = ()
    video: tuple[int, ...] = ()
    modalities: tuple[str, ...] = tuple(STREAMS)
    weights: Mapping[str, float | int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check("SampledPair", self.audio, self.video, self.modalities, self.weights)
        if not isinstance(self.seed, Integral) or self.seed < 0:
            raise InputError(
                f"SampledPair: the seed is {self.seed!r}; give a whole number of 0 or more."
            )

    def passes(self, step: int) -> tuple[Pass, ...]:
        """One of each modality, at the two rates that were drawn for the step."""
        rng = np.random.default_rng([self.seed, step])
        drawn = [int(rng.integers(max(1, len(rates)))) for rates in (self.audio, self.video)]
        audio, video = (
            rates[place : place + 1]
            for rates, place in zip((self.audio, self.video), drawn, strict=True)
        )
        return AllPairs(audio, video, self.modalities, self.weights).possible()

    def possible(self) -> tuple[Pass, ...]:
        """As of `AllPairs`."""
        return AllPairs(self.audio, self.video, self.modalities, self.weights).possible()


def pairs_of(modality: str, audio: Sequence[int], video: Sequence[int]) -> list[StreamRates]:
    """The rates at which a modality is read, each once: all pairs where both streams are read.

    >>> pairs_of("video", (4, 16), (2, 5))
    [(None, 2), (None, 5)]
    """
    streams = STREAMS[modality]
    heard = dict.fromkeys(audio) if "audio" in streams and audio else (None,)
    seen = dict.fromkeys(video) if "video" in streams and video else (None,)
    return [(a, v) for v in seen for a in heard]


def name_of_pair(pair: StreamRates) -> str:
    """A pair in words, the order (audio, video); one number where one stream is read.

    >>> name_of_pair((4, 2)), name_of_pair((None, 5))
    ('4:2', '5')
    """
    return ":".join(str(rate) for rate in pair if rate is not None)


def _weight(weights: Mapping[str, float | int] | None, modality: str) -> float | int:
    return (weights or {}).get(modality, 1.0)


def _check(
    where: str,
    audio: Sequence[int],
    video: Sequence[int],
    modalities: Sequence[str],
    weights: Mapping[str, float | int] | None,
) -> None:
    if isinstance(modalities, str):
        raise InputError(f"{where}: modalities is {modalities!r}; give a list of names.")
    for name in (*modalities, *(weights or {})):
        if name not in STREAMS:
            raise InputError(f"{where}: there is no modality {name!r}; use {', '.join(STREAMS)}.")
    if not modalities:
        raise InputError(f"{where}: no modality was given; give one of {', '.join(STREAMS)}.")
    for stream, rates in {"audio": audio, "video": video}.items():
        _check_rates(where, stream, rates)
    for name in modalities:
        stream = "audio" if name == "audio" else "video"
        if not (audio if stream == "audio" else video):
            raise InputError(f"{where}: modality {name!r} needs {stream} rates; give at least one.")
    for name, weight in (weights or {}).items():
        if not isinstance(weight, Real) or not 0 <= weight < float("inf"):
            raise InputError(f"{where}: the weight of {name} is {weight!r}; give 0 or more.")


def _check_rates(where: str, stream: str, rates: object) -> None:
    if isinstance(rates, str) or not isinstance(rates, Sequence):
        raise InputError(f"{where}: the {stream} rates are {rates!r}; give a list of numbers.")
    for rate in rates:
        if not is_rate(rate):
            raise InputError(f"{where}: a rate is {rate!r}; give whole numbers of at least 1.")
