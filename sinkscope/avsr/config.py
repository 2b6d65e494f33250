"""The configuration of an audio-visual LLM: a frozen, versioned record that is stored as JSON.

Depends on nothing but the errors, so that reading it loads no torch.
"""

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from sinkscope.avsr.lora_schemes import SCALE_KEYS, SCHEMES
from sinkscope.avsr.mome_settings import MomeSettings
from sinkscope.avsr.rates import is_rate
from sinkscope.errors import CheckpointError, InputError

__all__ = ["MODEL_TYPE", "VERSION", "AvsrConfig", "EncoderConfig", "LoraSettings"]

MODEL_TYPE = "sinkscope-avsr"
"""The value of ``model_type`` in ``config.json`` by which a folder is recognised."""

VERSION = 1
"""The version of the format that this code reads and writes."""

Modality = Literal["audio", "video", "audiovisual"]

_STREAMS = ("audio", "video", "audiovisual")
_RATES = tuple(f"{stream}_rates" for stream in _STREAMS)


@dataclass(frozen=True)
class EncoderConfig:
    """Which encoder, and what it is built with.

    Attributes:
        kind: the encoder's class name, as `sinkscope.avsr.encoders.build_encoder` knows it.
        config: its own settings.
    """

    kind: str
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LoraSettings:
    """The reduction-factor convention of Llama-AVSR (arXiv 2409.12319).

    Attributes:
        reduction: R; the rank is ``round(hidden_size / R)``.
        alpha: the update is scaled by ``alpha / R``.
        scheme: which branches there are, by their names in `sinkscope.avsr.lora_schemes.SCHEMES`:
            one for all (``"S"``), one a task, one a scale, or two of these.
        scale_key: by which rates a scale's branch is chosen: ``"pair"``, ``"audio"`` or
            ``"video"``.
    """

    reduction: float | int
    alpha: float | int
    scheme: str = "S"
    scale_key: str = "pair"

    def __post_init__(self) -> None:
        for name, known in (("scheme", tuple(SCHEMES)), ("scale_key", SCALE_KEYS)):
            if getattr(self, name) not in known:
                raise InputError(
                    f"LoraSettings.{name} is {getattr(self, name)!r}; use one of "
                    f"{', '.join(known)}."
                )


@dataclass(frozen=True)
class AvsrConfig:
    """Everything that is needed to build a `LlamaAvsr` but its weights.

    Attributes:
        llm: the fields of the LLM's configuration in transformers; ``model_type`` among them where
            it is not ``"llama"``.
        audio_encoder: the encoder of sound, or None for a model without ears.
        video_encoder: the encoder of mouth crops, or None for a model without eyes.
        audiovisual_encoder: one encoder of both in place of those two (Llama-AVSR's modality
            ``audiovisual_avhubert``).
        single_projector: whether that encoder reads both at once and gives one sequence of tokens
            without delimiters; otherwise it reads each alone, and two projectors follow.
        audio_rates: feature frames that become one token, in training; the first is the default.
        video_rates: the same for video.
        audiovisual_rates: the same for the one sequence.
        compression: ``"average"`` (mean over the frames) or ``"stack"`` (frames side by side,
            which ties a projector to one rate).
        projectors: ``"shared"`` (one for every rate of a stream) or ``"per_rate"`` (one for each,
            as in Llama-MTSK, arXiv 2503.06362; other rates are refused).
        projector_width: units of the projectors' hidden layer.
        projector_norm: whether the projectors end in a LayerNorm, or the streams whose do.
        lora: settings of the LLM's LoRA branches, or None where there are none.
        mome: the mixtures of experts beside the LLM's blocks, or None where there are none.
        massive_ratio: the ratio to the median above which an activation of this model is called
            massive, or None for the default of 1000 (which tiny models never reach).
    """

    llm: dict[str, Any]
    audio_encoder: EncoderConfig | None = None
    video_encoder: EncoderConfig | None = None
    audiovisual_encoder: EncoderConfig | None = None
    single_projector: bool = False
    audio_rates: tuple[int, ...] = (4,)
    video_rates: tuple[int, ...] = (2,)
    audiovisual_rates: tuple[int, ...] = (2,)
    compression: Literal["average", "stack"] = "average"
    projectors: Literal["shared", "per_rate"] = "shared"
    projector_width: int = 256
    projector_norm: bool | tuple[str, ...] = False
    lora: LoraSettings | None = None
    mome: MomeSettings | None = None
    massive_ratio: float | int | None = None

    def __post_init__(self) -> None:
        apart = self.audio_encoder is not None or self.video_encoder is not None
        if apart == (self.audiovisual_encoder is not None):
            raise InputError(
                "AvsrConfig: give audio_encoder, video_encoder or both, or else an "
                f"audiovisual_encoder; {'both kinds' if apart else 'none'} was given."
            )
        if self.single_projector and self.audiovisual_encoder is None:
            raise InputError("AvsrConfig: single_projector needs an audiovisual_encoder.")
        if self.lora is not None and self.mome is not None:
            raise InputError("AvsrConfig has lora and mome; an LLM has one of them, or neither.")
        for name in _RATES:
            _check_rates(name, getattr(self, name), self)
        choices = {"compression": ("average", "stack"), "projectors": ("shared", "per_rate")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"AvsrConfig.{name} is {getattr(self, name)!r}; use {' or '.join(known)}."
                )
        normed = () if isinstance(self.projector_norm, bool) else self.projector_norm
        if not set(normed) <= set(self.streams):
            raise InputError(
                f"AvsrConfig.projector_norm is {normed}; name streams among "
                f"{', '.join(self.streams)}, or use True or False."
            )

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that become tokens, in their order."""
        if self.audiovisual_encoder is not None:
            return ("audiovisual",) if self.single_projector else ("audio", "video")
        given = {"audio": self.audio_encoder, "video": self.video_encoder}
        return tuple(stream for stream, encoder in given.items() if encoder is not None)

    def rates(self, stream: str) -> tuple[int, ...]:
        """Feature frames that become one token of a stream; the first is the default."""
        return getattr(self, f"{stream}_rates")

    def ends_in_norm(self, stream: str) -> bool:
        """Whether the projectors of a stream end in a LayerNorm."""
        norm = self.projector_norm
        return norm if isinstance(norm, bool) else stream in norm

    @property
    def hidden_size(self) -> int:
        """Features of the LLM's residual stream."""
        return int(self.llm["hidden_size"])

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary with ``model_type`` and ``version``."""
        return {"model_type": MODEL_TYPE, "version": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "config.json") -> "AvsrConfig":
        """Reads what `to_dict` wrote.

        Raises:
            CheckpointError: another kind of model, another version, a missing or an unknown field.
        """
        values = dict(values)
        found = values.pop("model_type", None), values.pop("version", None)
        if found != (MODEL_TYPE, VERSION):
            raise CheckpointError(
                f"{where}: model_type and version are {found}, not {(MODEL_TYPE, VERSION)}; "
                "this is no audio-visual LLM of this version."
            )
        _check_keys(values, cls, where)
        nested = {f"{stream}_encoder": EncoderConfig for stream in _STREAMS}
        for name, kind in {**nested, "lora": LoraSettings, "mome": MomeSettings}.items():
            if values.get(name) is not None:
                _check_keys(values[name], kind, f"{where}, {name}")
                values[name] = kind(**values[name])
        for name in (*_RATES, "projector_norm"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        return cls(**values)

    def save(self, folder: Path) -> None:
        """Writes ``config.json`` into a folder."""
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "AvsrConfig":
        """Reads ``config.json`` from a folder.

        Raises:
            CheckpointError: the file is missing or not JSON, or see `from_dict`.
        """
        path = folder / "config.json"
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist; name a folder made by save_pretrained.")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} is not JSON ({error}); restore the file.") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{path} holds a {type(values).__name__}, not a JSON object.")
        return cls.from_dict(values, where=str(path))


def _check_keys(values: Mapping[str, Any], kind: type, where: str) -> None:
    known = {item.name for item in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise CheckpointError(
            f"{where}: unknown fields {unknown} in {kind.__name__}; known are {sorted(known)}."
        )
    required = {item.name for item in fields(kind) if _is_required(item)}
    missing = sorted(required - set(values))
    if missing:
        raise CheckpointError(f"{where}: fields {missing} of {kind.__name__} are missing.")


def _is_required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _check_rates(name: str, rates: tuple[int, ...], config: AvsrConfig) -> None:
    if not rates or not all(map(is_rate, rates)):
        raise InputError(f"AvsrConfig.{name} is {rates}; give whole numbers of at least 1.")
    if config.projectors == "per_rate":
        if len(set(rates)) < len(rates):
            raise InputError(f"AvsrConfig.{name} is {rates}; give each rate once.")
    elif config.compression == "stack" and len(rates) > 1:
        raise InputError(
            f"AvsrConfig.{name} is {rates}, but a projector of stacked frames has one rate; give "
            "one, or use compression='average' or projectors='per_rate'."
        )
