"""What is trained: systems, arms, and the settings at which each is tested. No torch.

Every arm of a seed begins at the same *hearing* model: the language model of that seed, taught by
full fine-tuning to listen at rates 4 and 2 only, and from then on frozen. What an arm trains are
projectors, one a rate, which begin as copies of the hearing model's, and its adapters:

* ``separate``: one Llama-AVSR (arXiv 2409.12319) for each task and rate, with LoRA;
* ``ms``, ``ss``: one Llama-MTSK (arXiv 2503.06362) for all of them, with one LoRA, or one a scale;
* ``mome``: one MoME (arXiv 2510.04136) for all of them.

A separate model takes as many steps as the others; each step of the others has a pass for every
setting, over the same utterances. So each setting sees the same number of batches in all systems.

Example:
    >>> Arm(0, "mome", weight=0.1).name, len(SETTINGS)
    ('mome-w0.1-seed0', 8)
    >>> [passes[0].name for passes in Arm(0, "separate").parts][:2]
    ['audio-4', 'audio-16']
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "AUDIO",
    "RATES_OF_LEARNING",
    "SETTINGS",
    "SYSTEMS",
    "VIDEO",
    "WEIGHTS",
    "Arm",
    "Setting",
    "Sizes",
]

AUDIO = (4, 16)
"""Encoder frames a token of sound (50 a second)."""

VIDEO = (2, 5)
"""Encoder frames a token of picture (25 a second)."""

SYSTEMS = {
    "separate": "Llama-AVSR, one model a setting",
    "ms": "Llama-MTSK, one LoRA",
    "ss": "Llama-MTSK, one LoRA a scale",
    "mome": "MoME",
}
"""The systems and their names."""

TASKS = {"audio": "ASR", "video": "VSR", "audiovisual": "AVSR"}
"""The name of each modality's task."""

WEIGHTS = (0.1, 1.0)
"""Weights of the decorrelation loss that are compared on the development voices."""

RATES_OF_LEARNING = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
"""Learning rates that are compared on the development voices, for LoRA and for the experts."""


@dataclass(frozen=True)
class Setting:
    """A task at a pair of rates; of a stream that the task does not read, the rate is the first."""

    task: str
    audio_rate: int
    video_rate: int

    @property
    def rates(self) -> tuple[int, int]:
        """Encoder frames a token, of sound and of picture."""
        return self.audio_rate, self.video_rate

    @property
    def name(self) -> str:
        """The task and the rates of the streams that it reads."""
        shown = {"audio": (self.audio_rate,), "video": (self.video_rate,)}.get(
            self.task, self.rates
        )
        return "-".join([self.task, *map(str, shown)])


SETTINGS = (
    *(Setting("audio", rate, VIDEO[0]) for rate in AUDIO),
    *(Setting("video", AUDIO[0], rate) for rate in VIDEO),
    *(Setting("audiovisual", audio, video) for audio in AUDIO for video in VIDEO),
)
"""Everything that is trained and tested, from low compression to high within a task."""


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes:
        hearing: steps of the hearing model.
        steps: of an arm.
        batch: utterances a step.
        looked_at: test utterances whose sinks are looked for.
        sweep: steps of the runs that choose learning rates and weight.
        longer: steps of the arms that are trained longer.
    """

    hearing: int = 1500
    steps: int = 160
    batch: int = 10
    looked_at: int = 12
    sweep: int = 60
    longer: int = 480


@dataclass(frozen=True)
class Arm:
    """A system with or without the loss, one seed.

    Attributes:
        seed: of the hearing model, the adapters and every draw.
        system: one of `SYSTEMS`.
        weight: of the decorrelation loss; 0 leaves it out.
        learning_rate: its highest value.
        longer: whether it is one that is trained longer.
    """

    seed: int
    system: str
    weight: float | int = 0.0
    learning_rate: float | int = 4e-3
    longer: bool = False

    @property
    def name(self) -> str:
        """The folder of the arm."""
        longer = "-longer" if self.longer else ""
        return f"{self.system}-w{self.weight:g}{longer}-seed{self.seed}"

    @property
    def parts(self) -> list[Sequence[Setting]]:
        """The settings of each of its models."""
        return [(one,) for one in SETTINGS] if self.system == "separate" else [SETTINGS]
