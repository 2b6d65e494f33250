"""What a released checkpoint does not tell: configurations and a tokenizer, read where they are."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkscope.avsr.avhubert.config import config_from_fairseq, infer_config
from sinkscope.avsr.config import EncoderConfig
from sinkscope.avsr.convert.infer import Kind
from sinkscope.avsr.fairseq_pickle import read_fairseq_checkpoint
from sinkscope.avsr.tokens import add_tokens
from sinkscope.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["SIZES", "Answers", "avhubert_encoder", "llm_fields", "speech_encoder", "tokenizer_of"]

_ASIDE = (
    *("architectures", "transformers_version", "dtype", "torch_dtype", "_name_or_path"),
    *("quantization_config", "task_specific_params", "_attn_implementation"),
)
SIZES = {"large": True, "base": False}
"""Published sizes of AV-HuBERT by name, and whether their layers normalise first."""


@dataclass(frozen=True)
class Answers:
    """What the user says of a released checkpoint.

    Attributes:
        llm: folder, hub id or ``config.json`` of the LLM before it was fine-tuned.
        encoder: the same of Whisper or WavLM.
        video_encoder: AV-HuBERT: ``"large"``, ``"base"``, or the ``.pt`` file.
        tokenizer: folder or hub id; that of ``llm`` by default.
        audio_rate: encoder frames a token, where frames were averaged.
        video_rate: the same for video.
        compression: ``"average"`` or ``"stack"``, where the shapes leave it open.
        lora_alpha: the authors' ``alpha``.
    """

    llm: str | None = None
    encoder: str | None = None
    video_encoder: str | None = None
    tokenizer: str | None = None
    audio_rate: int | None = None
    video_rate: int | None = None
    compression: str | None = None
    lora_alpha: float | int | None = None


def llm_fields(source: str, *, hidden_size: int, vocabulary: int, layers: int) -> dict[str, Any]:
    """The fields of the LLM's configuration, with the checkpoint's own vocabulary.

    Raises:
        CheckpointError: it cannot be read, or is of an LLM of another size.
    """
    fields = _configuration(source, "llm")
    for name, found in (("hidden_size", hidden_size), ("num_hidden_layers", layers)):
        if fields.get(name) != found:
            raise CheckpointError(
                f"--llm {source}: its {name} is {fields.get(name)}, the checkpoint's {found}; name "
                "the LLM that the checkpoint was trained on."
            )
    return fields | {"vocab_size": vocabulary}


def speech_encoder(kind: Kind, source: str, *, width: int) -> EncoderConfig:
    """The configuration of Whisper's or WavLM's encoder.

    Raises:
        CheckpointError: it cannot be read, or is of an encoder of another width.
    """
    fields = _configuration(source, kind)
    name = "d_model" if kind == "whisper" else "hidden_size"
    if fields.get(name) != width:
        raise CheckpointError(
            f"--encoder {source}: its {name} is {fields.get(name)}, the checkpoint's {width}; name "
            "the encoder that the checkpoint was trained with."
        )
    return EncoderConfig(kind, {kind: fields})


def avhubert_encoder(
    source: str, state: Mapping[str, Any], *, streams: tuple[str, ...]
) -> EncoderConfig:
    """The configuration of an AV-HuBERT, from its weights in the checkpoint and what is said.

    Args:
        source: ``"large"``, ``"base"``, or the published ``.pt`` file.
        state: its weights by published names.
        streams: what it reads.

    Raises:
        CheckpointError: no such size or file, or one of another width.
    """
    if source in SIZES:
        config = infer_config(state, norm_first=SIZES[source])
    elif Path(source).is_file():
        told = config_from_fairseq(read_fairseq_checkpoint(source).cfg.get("model", {}))
        config = infer_config(state, norm_first=told.norm_first, heads=told.heads)
        if config.width != told.width:
            raise CheckpointError(
                f"--video-encoder {source}: its width is {told.width}, the checkpoint's "
                f"{config.width}; name the encoder that the checkpoint was trained with."
            )
    else:
        raise CheckpointError(
            f"--video-encoder {source}: there is no such file; give AV-HuBERT's .pt file, or one "
            f"of {', '.join(SIZES)}."
        )
    (kind,) = streams if len(streams) == 1 else ("both",)
    return EncoderConfig(f"avhubert-{kind}", config.to_dict())


def tokenizer_of(source: str, *, vocabulary: int) -> "PreTrainedTokenizerFast":
    """The LLM's tokenizer with the five added tokens.

    Raises:
        CheckpointError: it cannot be read, or does not fit the checkpoint's embedding.
    """
    from transformers import AutoTokenizer

    tokenizer = _attempt(source, "tokenizer", lambda: AutoTokenizer.from_pretrained(source))
    before = len(tokenizer)
    added = add_tokens(tokenizer)
    if len(tokenizer) != vocabulary and not (added == 0 and len(tokenizer) < vocabulary):
        raise CheckpointError(
            f"The tokenizer of {source} has {before} entries and {added} added ones, the "
            f"checkpoint {vocabulary} embeddings; name the tokenizer of the LLM that it was "
            "trained on."
        )
    return tokenizer


def _configuration(source: str, kind: str) -> dict[str, Any]:
    """The fields of a configuration of transformers, from a folder, a hub id or a JSON file."""
    path = Path(source)
    if path.suffix == ".json":
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{source} is no configuration ({error}).") from error
        if not isinstance(fields, dict):
            raise CheckpointError(f"{source} holds no JSON object; give a config.json.")
    else:
        from transformers import AutoConfig

        found = _attempt(source, "configuration", lambda: AutoConfig.from_pretrained(source))
        fields = found.to_dict()
    wanted = fields.get("model_type", kind)
    if kind != "llm" and wanted != kind:
        raise CheckpointError(f"{source} is a {wanted}; the checkpoint's encoder is a {kind}.")
    aside = _ASIDE if kind == "llm" else (*_ASIDE, "model_type")
    return {name: value for name, value in fields.items() if name not in aside}


def _attempt(source: str, what: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0][:200].rstrip(".")
        raise CheckpointError(
            f"The {what} of {source!r} cannot be read ({reason}); give a local folder or a hub id."
        ) from error
