"""The passes of a run's steps, from its settings: every pair, a drawn pair, or one draw a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from sinkscope.avsr.config import AvsrConfig, Modality
from sinkscope.avsr.decoding import checked_modality, modalities_of
from sinkscope.avsr.passes import AllPairs, Pass, Passes, SampledPair
from sinkscope.errors import InputError
from sinkscope.training.config import TrainConfig
from sinkscope.training.plan import BATCH, generator

__all__ = ["DrawnPasses", "passes_of", "rates_of", "trained_modalities"]


def trained_modalities(model: AvsrConfig, config: TrainConfig) -> list[Modality]:
    """The modalities that a run learns.

    Raises:
        InputError: the model does not take one.
    """
    asked = config.modalities or modalities_of(model)[-1:]
    return [checked_modality(model, one) for one in asked]


def rates_of(stream: str, model: AvsrConfig, config: TrainConfig) -> tuple[int, ...]:
    """The rates that a stream is trained at; one sequence of both counts as video."""
    asked = {"audio": config.audio_rates}.get(stream, config.video_rates)
    return asked or model.rates(stream)[: 1 if config.passes == "drawn" else None]


def passes_of(model: AvsrConfig, config: TrainConfig) -> "Passes | DrawnPasses":
    """What says which passes each step of a run makes.

    Raises:
        InputError: the model does not take a modality; steps of one pass where several were asked
            for; or weights that do nothing, or leave nothing to learn.
    """
    given: dict[str, tuple[int, ...]] = {"audio": (), "video": ()}
    for stream in model.streams:
        given["audio" if stream == "audio" else "video"] = rates_of(stream, model, config)
    modalities = tuple(trained_modalities(model, config))
    weights = None if config.task_weights is None else asdict(config.task_weights)
    _refuse_weights(weights or {}, modalities)
    every = AllPairs(**given, modalities=modalities, weights=weights)
    if config.passes == "drawn":
        return DrawnPasses(every, model.streams, config.seed)
    if len(every.possible()) == 1:
        raise InputError(
            f"config: passes is {config.passes!r}, but there is one pass alone, "
            f"{every.possible()[0].name}; name more rates or modalities, or leave passes out."
        )
    if config.passes == "sampled_pair":
        return SampledPair(**given, modalities=modalities, weights=weights, seed=config.seed)
    return every


def _refuse_weights(weights: Mapping[str, float | int], modalities: Sequence[str]) -> None:
    """Refuse weights of what is not learned, and those with which nothing is."""
    for name, weight in weights.items():
        if name not in modalities and weight != 1:
            raise InputError(
                f"config: task_weights has {weight} for {name}, which is not trained; leave it "
                f"out, or add {name!r} to modalities."
            )
    if weights and not any(weights[name] for name in modalities):
        raise InputError(
            f"config: task_weights is 0 for {' and '.join(modalities)}, which is all that is "
            "trained; give one of them a weight above 0."
        )


@dataclass(frozen=True)
class DrawnPasses:
    """One pass a batch, its modality and rates drawn from the batch's place in its epoch.

    Attributes:
        every: what is drawn from.
        streams: of the model, in the order in which their rates are drawn.
        seed: of the run.
    """

    every: AllPairs
    streams: Sequence[str]
    seed: int

    def possible(self) -> tuple[Pass, ...]:
        """Every pass that may be drawn."""
        return self.every.possible()

    def drawn(self, epoch: int, place: int) -> Pass:
        """The pass of a batch."""
        rng = generator(self.seed, BATCH, epoch, place)
        modalities = self.every.modalities
        modality = modalities[int(rng.integers(len(modalities)))]
        rates = {name: self._rates(name) for name in self.streams}
        chosen = {name: (own[int(rng.integers(len(own)))],) for name, own in rates.items()}
        video = chosen.get("video") or chosen.get("audiovisual", ())
        weights = self.every.weights
        return AllPairs(chosen.get("audio", ()), video, (modality,), weights).possible()[0]

    def _rates(self, stream: str) -> tuple[int, ...]:
        return self.every.audio if stream == "audio" else self.every.video
