"""What a released checkpoint does not tell: configurations and a tokenizer, read where they are."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkscope.avsr.avhubert.config import AvHubertConfig, config_from_fairseq, infer_config
from sinkscope.avsr.config import EncoderConfig
from sinkscope.avsr.convert.infer import Kind, LlmFacts
from sinkscope.avsr.fairseq_pickle import read_fairseq_checkpoint
from sinkscope.avsr.tokens import add_tokens
from sinkscope.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["SIZES", "avhubert_encoder", "llm_fields", "speech_encoder", "tokenizer_of"]

_ASIDE = (
    *("architectures", "transformers_version", "dtype", "torch_dtype", "_name_or_path"),
    *("quantization_config", "task_specific_params", "_attn_implementation"),
)
_FAIRSEQ = "encoder_embed_dim"
"""A field that fairseq's configurations of AV-HuBERT have."""

SIZES = {"large": True, "base": False}
"""Published sizes of AV-HuBERT by name, and whether their layers normalise first."""


def llm_fields(source: str, facts: LlmFacts) -> dict[str, Any]:
    """The fields of the LLM's configuration, with the checkpoint's own vocabulary.

    Raises:
        CheckpointError: it cannot be read, or is of an LLM of another size.
    """
    fields = _configuration(source, "llm")
    wanted = {
        "hidden_size": facts.hidden_size,
        "num_hidden_layers": facts.layers,
        "intermediate_size": facts.intermediate_size,
    }
    for name, found in wanted.items():
        if found is not None and fields.get(name) != found:
            raise CheckpointError(
                f"--llm {source}: its {name} is {fields.get(name)}, the checkpoint's {found}; name "
                "the LLM that the checkpoint was trained on."
            )
    heads = fields.get("num_attention_heads") or 0
    groups = fields.get("num_key_value_heads") or heads
    width = groups * (fields.get("head_dim") or (facts.hidden_size // heads if heads else 0))
    if facts.key_width not in (None, width):
        raise CheckpointError(
            f"--llm {source}: its keys have {width} features ({groups} heads), the checkpoint's "
            f"{facts.key_width}; name the LLM that the checkpoint was trained on."
        )
    return fields | {"vocab_size": facts.vocabulary}


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
        source: ``"large"``, ``"base"``, the published ``.pt`` file, or its configuration as JSON.
        state: its weights by published names.
        streams: what it reads.

    Raises:
        CheckpointError: no such size or file, or one of another width.
    """
    if source in SIZES:
        config = infer_config(state, norm_first=SIZES[source])
    else:
        told = _hubert_config(source)
        config = infer_config(state, norm_first=told.norm_first, heads=told.heads)
        if config.width != told.width:
            raise CheckpointError(
                f"--video-encoder {source}: its width is {told.width}, the checkpoint's "
                f"{config.width}; name the encoder that the checkpoint was trained with."
            )
    (kind,) = streams if len(streams) == 1 else ("both",)
    return EncoderConfig(f"avhubert-{kind}", config.to_dict())


def _hubert_config(source: str) -> AvHubertConfig:
    """What a published ``.pt`` file says of its model; or JSON, fairseq's or our own fields."""
    if not Path(source).is_file():
        raise CheckpointError(
            f"--video-encoder {source}: there is no such file; give AV-HuBERT's .pt file, its "
            f"config.json, or one of {', '.join(SIZES)}."
        )
    if Path(source).suffix != ".json":
        return config_from_fairseq(read_fairseq_checkpoint(source).cfg.get("model", {}))
    fields = _json(source)
    fields = fields["model"] if isinstance(fields.get("model"), dict) else fields
    return config_from_fairseq(fields) if _FAIRSEQ in fields else AvHubertConfig.from_dict(fields)


def tokenizer_of(source: str, *, vocabulary: int) -> "PreTrainedTokenizerFast":
    """The LLM's tokenizer with the five added tokens.

    Raises:
        CheckpointError: it cannot be read, or does not fit the checkpoint's embedding.
    """
    from transformers import AutoTokenizer

    tokenizer = _attempt(
        source, "tokenizer", lambda: AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    )
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
    if Path(source).suffix == ".json":
        fields = _json(source)
    else:
        from transformers import AutoConfig

        found = _attempt(
            source,
            "configuration",
            lambda: AutoConfig.from_pretrained(source, trust_remote_code=False),
        )
        fields = found.to_dict()
    wanted = fields.get("model_type", kind)
    if kind != "llm" and wanted != kind:
        raise CheckpointError(f"{source} is a {wanted}; the checkpoint's encoder is a {kind}.")
    aside = _ASIDE if kind == "llm" else (*_ASIDE, "model_type")
    return {name: value for name, value in fields.items() if name not in aside}


def _json(source: str) -> dict[str, Any]:
    try:
        fields = json.loads(Path(source).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{source} is no configuration ({error}); give a config.json."
        ) from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{source} holds no JSON object; give a config.json.")
    return fields


def _attempt(source: str, what: str, read: Callable[[], Any]) -> Any:
    if source.startswith((".", "/", "~")) and not Path(source).exists():
        raise CheckpointError(f"{source} does not exist; name the folder of the {what}.")
    try:
        return read()
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0][:200].rstrip(".")
        raise CheckpointError(
            f"The {what} of {source!r} cannot be read ({reason}); give a local folder or a hub id."
        ) from error
