"""What is trained: arms, and the cells that begin from them. Depends on the schedules.

An *arm* is one way of training from the language model on, with or without the loss, one seed. Its
*shared* stage is full fine-tuning of one model on all tasks and rates. A *cell* then goes on for
one task at one pair of rates. So two arms of a seed differ in nothing but the loss.

There are two schemes. ``"full"``: a cell goes on from its own arm, which has seen the loss from the
first step. ``"lora"``: every cell begins from the arm without the loss, whose language model is
frozen; LoRA branches on q and v and the projectors are trained, so here the loss is added to a
model that hears already. (In pilots of one seed LoRA did not learn to listen from the language
model itself: word error rates of .82 to .89 after 600 steps with branches on q and v, of .82 to .86
after 800 with branches on every projection; after 800 steps full fine-tuning had .39 to .58.)

Example:
    >>> arm = Arm(seed=0, scheme="lora", weight=0.1)
    >>> arm.name, Cell(arm, "audio", "high").name, arm.start.name
    ('lora-w0.1-seed0', 'lora-w0.1-seed0-audio-high', 'full-w0-seed0')
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from sinkscope.experiments.tiny_training import Schedule

__all__ = [
    "CLOSER",
    "CONTROLS",
    "LEVELS",
    "SCHEMES",
    "TASKS",
    "WEIGHTS",
    "Arm",
    "Cell",
    "Sizes",
    "cells_of",
    "own",
    "shared",
]

Rates = tuple[int, int]

TASKS = {"ASR": "audio", "VSR": "video", "AVSR": "audiovisual"}
"""The modality of each task."""

LEVELS: dict[str, Rates] = {"low": (4, 2), "middle": (16, 5), "high": (32, 10)}
"""Encoder frames a token, of sound (50 a second) and of picture (25 a second)."""

LONG_ENOUGH = 5.12
"""Seconds that give 8 audio tokens at the highest rate; shorter utterances are left out."""

SCHEMES = ("full", "lora")

MIXED: tuple[Rates, ...] = 5 * ((4, 2),) + 2 * ((8, 3),) + 3 * ((16, 5),) + 2 * ((32, 10),)
"""What the shared stage draws from."""

WEIGHTS = (0.0, 0.01, 0.1, 1.0, 10.0)
"""What is compared on the development voices; 0 is the baseline."""

CLOSER = (("audiovisual", "low"), ("audio", "high"))
"""Where the sinks of an arm are looked at closely. Sound at high compression was added when sinks
had been counted: most of those other than BOS are there."""

CONTROLS = ("random direction", "layer norm", "frozen delimiters", "mean delimiters")
"""Arms that change one thing: the loss compares with a random direction in place of BOS; the
projectors end in a LayerNorm; the embeddings of the delimiters stay at random, or at the mean of
the vocabulary (in the other arms they are trained)."""


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes:
        shared: steps of the shared stage.
        own: steps of a cell.
        looked_at: test utterances of an arm whose sinks are looked for.
        looked_at_in_cells: the same of a cell.
    """

    shared: int = 1000
    own: int = 160
    looked_at: int = 20
    looked_at_in_cells: int = 12


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        seed: of the language model, the projectors and every draw.
        scheme: ``"full"`` or ``"lora"``.
        weight: of the decorrelation loss; 0 is the baseline.
        control: one of `CONTROLS`, or "".
    """

    seed: int
    scheme: str = "full"
    weight: float | int = 0.0
    control: str = ""

    @property
    def name(self) -> str:
        """The folder of the arm."""
        control = f"-{self.control.replace(' ', '-')}" if self.control else ""
        return f"{self.scheme}-w{self.weight:g}{control}-seed{self.seed}"

    @property
    def start(self) -> "Arm":
        """The arm whose shared stage comes first."""
        return self if self.scheme == "full" else replace(self, scheme="full", weight=0.0)


@dataclass(frozen=True)
class Cell:
    """A task at a level of compression, in an arm."""

    arm: Arm
    task: str
    level: str

    @property
    def name(self) -> str:
        """The folder of the cell."""
        return f"{self.arm.name}-{self.task}-{self.level}"

    @property
    def rates(self) -> Rates:
        """Encoder frames a token."""
        return LEVELS[self.level]


def cells_of(arms: Sequence[Arm]) -> Iterator[Cell]:
    """Every task at every level, of every arm."""
    for arm, task, level in product(arms, TASKS.values(), LEVELS):
        yield Cell(arm, task, level)


_RATE = {"full": 1e-3, "lora": 2e-3}


def shared(arm: Arm, *, steps: int) -> Schedule:
    """The first stage: single sentences to whole utterances, all tasks, low rates to all rates."""
    return Schedule(
        steps=steps,
        decorrelation=arm.weight,
        against="random" if arm.control == "random direction" else "bos",
        rates=MIXED,
        watched={
            f"{modality} {level}": (modality, rates)
            for modality in TASKS.values()
            for level, rates in LEVELS.items()
        },
        every=max(1, steps // 4),
        seed=2 * arm.seed,
    )


def own(cell: Cell, *, steps: int) -> Schedule:
    """The second stage: whole utterances, one task, one pair of rates."""
    return Schedule(
        steps=steps,
        windows=6,
        rate=_RATE[cell.arm.scheme],
        heard=0.0,
        one=0.0,
        two=0.0,
        single=0.0,
        easy=0.0,
        decorrelation=cell.arm.weight,
        rates=(cell.rates,),
        modalities=(cell.task,),
        watched={f"{cell.task} {cell.level}": (cell.task, cell.rates)},
        every=max(1, steps // 2),
        seed=2 * cell.arm.seed + 1,
    )
