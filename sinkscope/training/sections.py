"""The sections of a training run's settings, each checked by itself. Loads no torch."""

import math
from dataclasses import asdict, dataclass

from sinkscope.errors import InputError
from sinkscope.training.schedule import WeightSchedule

__all__ = [
    "DecorrelationConfig",
    "NoiseConfig",
    "TaskWeights",
    "at_least",
    "one_of",
    "share",
]


@dataclass(frozen=True)
class DecorrelationConfig:
    """The decorrelation loss; see `decorrelation_loss` and `WeightSchedule`.

    Attributes:
        weight: 0 leaves the loss out.
        warmup: share of the steps over which the weight rises.
        decay: share of the steps over which it falls at the end.
        power: of the cosine.
        layers: 0-based blocks; null is all but the last.
        detach_bos: whether no gradient flows through BOS.
    """

    weight: float | int = 0.0
    warmup: float | int = 0.0
    decay: float | int = 0.0
    power: float | int = 2.0
    layers: tuple[int, ...] | None = None
    detach_bos: bool = False

    def __post_init__(self) -> None:
        at_least("decorrelation, weight", self.weight, 0)
        at_least("decorrelation, power", self.power, 1)
        try:
            WeightSchedule(self.weight, warmup=self.warmup, decay=self.decay)
        except InputError as error:
            raise InputError(f"config: decorrelation: {error}") from error
        if self.layers == ():
            raise InputError(
                "config: decorrelation, layers is an empty list; name a layer, or null."
            )


@dataclass(frozen=True)
class NoiseConfig:
    """Noise on the sound of some clips.

    Attributes:
        kind: ``"babble"`` of the corpus's own voices, or a media file.
        share: of the clips, 0 to 1.
        snr: the lowest and the highest signal-to-noise ratio, dB; each clip's is drawn between.
    """

    kind: str = "babble"
    share: float | int = 0.5
    snr: tuple[float | int, ...] = (0.0, 10.0)

    def __post_init__(self) -> None:
        share("noise, share", self.share)
        if len(self.snr) != 2 or not self.snr[0] <= self.snr[1]:
            raise InputError(
                f"config: noise, snr is {list(self.snr)}; give the lowest and highest dB."
            )


@dataclass(frozen=True)
class TaskWeights:
    """What each modality's cross-entropy is multiplied by. Omni-AVSR: 1, 1.5, 1.

    Attributes:
        audio: of sound alone.
        video: of the picture alone.
        audiovisual: of both.
    """

    audio: float | int = 1.0
    video: float | int = 1.0
    audiovisual: float | int = 1.0

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            at_least(f"task_weights, {name}", weight, 0)


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a word that is not known."""
    if value not in known:
        raise InputError(f"config: {name} is {value!r}; give one of {', '.join(known)}.")


def at_least(name: str, value: float | int, least: int) -> None:
    """Refuse a number that is too small, or infinite."""
    if not (value >= least and math.isfinite(value)):
        raise InputError(f"config: {name} is {value}; give {least} or more.")


def share(name: str, value: float) -> None:
    """Refuse what is no share."""
    if not 0 <= value <= 1:
        raise InputError(f"config: {name} is {value}; give a share from 0 to 1.")
