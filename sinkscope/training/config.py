"""The settings of ``sinkscope train``: frozen, checked, read from YAML. Loads no torch.

Example:
    >>> TrainConfig.from_dict({"model": "tiny-avsr", "train": "clips", "step": 10})
    Traceback (most recent call last):
    ...
    sinkscope.errors.InputError: config: there is no key 'step'; did you mean 'steps'?
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sinkscope.avsr.config import LoraSettings
from sinkscope.avsr.mome_settings import MomeSettings
from sinkscope.errors import InputError
from sinkscope.training.reading import from_mapping, read_yaml
from sinkscope.training.sections import (
    DecorrelationConfig,
    NoiseConfig,
    TaskWeights,
    at_least,
    one_of,
    share,
)

__all__ = ["DecorrelationConfig", "NoiseConfig", "TaskWeights", "TrainConfig"]

MODALITIES = ("audio", "video", "audiovisual")


@dataclass(frozen=True)
class TrainConfig:
    """What is trained, on what, and how.

    Attributes:
        model: a bundled audio-visual LLM's name, or a folder.
        train: the corpus: a folder, a manifest or a file, whose clips have texts.
        dev: another one, for word errors; null for none.
        root: where a manifest's relative paths start.
        landmarks: a folder with a file of face landmarks for each clip.
        llm: ``"lora"`` (the branches only), ``"full"``, ``"frozen"`` or ``"untouched"``. Mixtures
            of experts beside a frozen LLM are trained, fresh ones and those that the model has;
            with ``"untouched"`` not even these, so projectors alone can be trained.
        lora: fresh branches; null keeps those that the model has.
        encoders: whether the encoders are trained, too.
        delimiters: whether the embeddings of the delimiters are; with llm "full" they are anyway.
        dropout: on the LLM's attention.
        audio_rates: feature frames a token, drawn for each batch. Null is the model's default; with
            passes of another kind, all of the model's own.
        video_rates: the same for video.
        modalities: drawn for each batch; null is the widest that the model takes.
        passes: ``"drawn"``: one modality and rates for each batch. ``"all_pairs"``: every modality
            at every pair of rates in each step (Llama-MTSK). ``"sampled_pair"``: one audio and one
            video rate a step, every modality at them (Omni-AVSR). The passes of a step are made
            over the same clips, and its loss is their mean; there must be several to choose from.
        task_weights: what each modality's cross-entropy is multiplied by, of those that are
            trained; null is 1.
        projectors: ``"per_rate"`` or ``"shared"``; null keeps the model's. Per-rate ones begin as
            copies of a shared one where the model has it.
        mome: fresh mixtures of experts beside the LLM's blocks, which are trained; llm must be
            "frozen". Null keeps those that the model has, which llm "frozen" trains on.
            ``balance_weight`` in it is the weight of the balance loss; shares and probabilities are
            those of each pass by itself.
        decorrelation: the loss against BOS.
        noise: null for none.
        steps: of the optimiser.
        batch_frames: picture frames (1/25 s) of a batch, padding counted.
        accumulation: batches a step.
        learning_rate: its highest value; it rises over the warm-up and falls as a cosine.
        warmup: share of the steps.
        weight_decay: of AdamW.
        clip_norm: the gradient's norm is clipped to this; 0 leaves it.
        precision: ``"float32"`` or ``"bfloat16"`` (autocast).
        seed: of every draw.
        log_every: steps between two lines of the log.
        save_every: steps between two checkpoints.
        watch_every: steps between two looks at the sinks of a few clips of dev; 0 never looks.
        evaluate_every: steps between two word error rates on dev; 0 is at the end only.
        cache: a folder for the features of clips without noise; encoders must be false.
    """

    model: str
    train: str
    dev: str | None = None
    root: str | None = None
    landmarks: str | None = None
    llm: str = "lora"
    lora: LoraSettings | None = None
    encoders: bool = False
    delimiters: bool = False
    dropout: float | int = 0.0
    audio_rates: tuple[int, ...] | None = None
    video_rates: tuple[int, ...] | None = None
    modalities: tuple[str, ...] | None = None
    passes: str = "drawn"
    task_weights: TaskWeights | None = None
    projectors: str | None = None
    mome: MomeSettings | None = None
    decorrelation: DecorrelationConfig = field(default_factory=DecorrelationConfig)
    noise: NoiseConfig | None = None
    steps: int = 1000
    batch_frames: int = 1500
    accumulation: int = 1
    learning_rate: float | int = 1e-3
    warmup: float | int = 0.05
    weight_decay: float | int = 0.0
    clip_norm: float | int = 1.0
    precision: str = "float32"
    seed: int = 0
    log_every: int = 10
    save_every: int = 100
    watch_every: int = 0
    evaluate_every: int = 0
    cache: str | None = None

    def __post_init__(self) -> None:
        one_of("llm", self.llm, ("lora", "full", "frozen", "untouched"))
        one_of("passes", self.passes, ("drawn", "sampled_pair", "all_pairs"))
        if self.projectors is not None:
            one_of("projectors", self.projectors, ("shared", "per_rate"))
        one_of("precision", self.precision, ("float32", "bfloat16"))
        for name in self.modalities or ():
            one_of("modalities", name, MODALITIES)
        for name in ("steps", "batch_frames", "accumulation", "log_every", "save_every"):
            at_least(name, getattr(self, name), 1)
        for name in ("watch_every", "evaluate_every", "weight_decay", "clip_norm"):
            at_least(name, getattr(self, name), 0)
        for name in ("modalities", "audio_rates", "video_rates"):
            if getattr(self, name) == ():
                raise InputError(f"config: {name} is an empty list; name at least one, or null.")
        for rate in (*(self.audio_rates or ()), *(self.video_rates or ())):
            at_least("a rate", rate, 1)
        if not 0 <= self.seed < 2**32:
            raise InputError(f"config: seed is {self.seed}; give one from 0 to {2**32 - 1}.")
        share("warmup", self.warmup)
        share("dropout", self.dropout)
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InputError(f"config: learning_rate is {self.learning_rate}; give one above 0.")
        _refuse_without_effect(self)
        _refuse_contradictions(self)

    def to_yaml(self) -> str:
        """The settings as YAML, every key, as `read` reads them."""
        return yaml.safe_dump(_plain(asdict(self)), sort_keys=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "config") -> "TrainConfig":
        """Settings from a mapping.

        Raises:
            InputError: in one sentence, naming the key; an unknown one with the nearest known.
        """
        return from_mapping(cls, values, where=where)

    @classmethod
    def read(cls, path: str | Path) -> "TrainConfig":
        """Settings from a YAML file.

        Raises:
            InputError: no such file, not YAML, or see `from_dict`.
        """
        return cls.from_dict(read_yaml(Path(path)), where=str(path))


def _refuse_contradictions(config: TrainConfig) -> None:
    if config.lora is not None and config.llm != "lora":
        raise InputError(f"config: lora is given, but llm is {config.llm!r}; use llm: lora.")
    if config.mome is not None and config.llm != "frozen":
        raise InputError(
            f"config: mome is given, but llm is {config.llm!r}; experts are trained beside a "
            "frozen LLM, so use llm: frozen."
        )
    if config.delimiters and config.weight_decay:
        raise InputError(
            "config: weight_decay would also shrink the embeddings that are not trained; with "
            "delimiters: true leave weight_decay at 0."
        )
    if config.dev is None and (config.watch_every or config.evaluate_every):
        raise InputError("config: watch_every and evaluate_every need the key dev; give it.")


def _refuse_without_effect(config: TrainConfig) -> None:
    """Refuse settings that would do nothing."""
    if config.cache is not None and config.encoders:
        raise InputError(
            "config: cache keeps what encoders give that are not trained, and encoders is true; "
            "leave one of them out."
        )
    if config.delimiters and config.llm == "full":
        raise InputError(
            "config: llm: full trains all embeddings, those of the delimiters too; leave "
            "delimiters out."
        )
    if config.noise is not None and set(config.modalities or ()) == {"video"}:
        raise InputError(
            "config: noise is given, but modalities is video alone and no sound is heard; leave "
            "noise out, or add a modality."
        )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
