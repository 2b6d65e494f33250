"""A released checkpoint of Llama-AVSR or Omni-AVSR becomes a folder that this package reads.

```python
done = convert("released.pth", "model", Answers(llm="meta-llama/Llama-3.1-8B",
               encoder="openai/whisper-medium.en", video_encoder="large", lora_alpha=8))
done.left_out      # weights that play no part in the model, by name
```

The checkpoint holds the whole model. Its tensors are written as they are, bit by bit and one at a
time; nothing in it is run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import init_empty_weights
from torch import Tensor

from sinkscope.avsr.adapters import Base, bases_of, write_adapters
from sinkscope.avsr.avhubert.transformer import named_as_published
from sinkscope.avsr.checkpoint import faults_between, new_folder, write_state
from sinkscope.avsr.config import AvsrConfig, EncoderConfig, LoraSettings
from sinkscope.avsr.convert.answers import (
    Answers,
    reduction_of,
    refuse_contradictions,
    refuse_unanswered,
)
from sinkscope.avsr.convert.infer import Told, what_is_told
from sinkscope.avsr.convert.names import is_left_out, our_name, part_of, their_name
from sinkscope.avsr.convert.released import read_released
from sinkscope.avsr.convert.sources import (
    SIZES,
    avhubert_encoder,
    llm_fields,
    speech_encoder,
    tokenizer_of,
)
from sinkscope.avsr.convert.summary import in_a_line
from sinkscope.avsr.lora_schemes import is_plain
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.errors import CheckpointError, InputError, SinkscopeError

__all__ = [
    "Converted",
    "config_of",
    "convert",
    "our_state",
    "rates_by_index",
    "refuse_faults_by_their_names",
]


@dataclass(frozen=True)
class Converted:
    """What was made of a released checkpoint.

    Attributes:
        folder: where it is.
        config: what was built.
        weights: how many tensors were written.
        left_out: names of those that play no part in the model.
    """

    folder: Path
    config: AvsrConfig
    weights: int
    left_out: tuple[str, ...]

    @property
    def summary(self) -> str:
        """What the model is, in a line: what was inferred, to be read over."""
        return in_a_line(self.config)


def convert(
    source: str | Path, out: str | Path, answers: Answers, *, adapters_only: bool = False
) -> Converted:
    """Convert a released checkpoint.

    Args:
        source: the ``.pth`` file (or Lightning's ``.ckpt``).
        out: the folder to make; it must not exist.
        answers: what names and shapes do not tell.
        adapters_only: write only what differs from the base models, which the answers must name
            where they lie with their weights.

    Raises:
        InputError: the folder exists; answers are missing: all are asked for in one sentence.
        CheckpointError: no Llama-AVSR; an answer that does not fit; weights that are missing,
            unexpected or of another shape: all are listed.
    """
    source, out = Path(source), Path(out)
    if out.exists():
        raise InputError(f"{out} exists; name a folder that does not.")
    state = read_released(source)
    left_out = tuple(sorted(filter(is_left_out, state)))
    state = {name: value for name, value in state.items() if name not in left_out}
    told = what_is_told(state, where=str(source))
    refuse_contradictions(told, answers)
    refuse_unanswered(told, answers)
    config = config_of(told, state, answers)
    bases = bases_of(config, _base_sources(told, answers)) if adapters_only else None
    tokenizer = tokenizer_of(answers.tokenizer or str(answers.llm), vocabulary=told.llm.vocabulary)
    named = our_state(state, config, where=f"--llm {answers.llm}")
    refuse_faults_by_their_names(_empty(config, tokenizer), named, where=str(source))
    with new_folder(out) as folder:
        count = _write(named, bases, config, folder)
        tokenizer.save_pretrained(folder)
    return Converted(out, config, count, left_out)


def _write(
    named: Mapping[str, Tensor], bases: list[Base] | None, config: AvsrConfig, folder: Path
) -> int:
    config.save(folder)
    if bases is not None:
        return write_adapters(named, bases, folder, lora=config.lora is not None)
    write_state(named.items(), folder)
    return len(named)


def _empty(config: AvsrConfig, tokenizer: Any) -> LlamaAvsr:
    """The model without memory for its weights."""
    try:
        with init_empty_weights(include_buffers=False):
            return LlamaAvsr(config, tokenizer)
    except SinkscopeError:
        raise
    except (TypeError, ValueError, KeyError) as error:  # a configuration that transformers refuses
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"The configurations that were named make no model ({reason}); check them."
        ) from error


def refuse_faults_by_their_names(
    model: LlamaAvsr, named: Mapping[str, Tensor], *, where: str
) -> None:
    """Refuses weights that are missing, unexpected or of another shape, by their published names.

    Raises:
        CheckpointError: listing all of them.
    """
    lora = model.config.lora
    theirs = partial(
        their_name, rates=rates_by_index(model.config), alone=lora is None or is_plain(lora)
    )
    own = {theirs(name): value for name, value in model.state_dict().items()}
    faults = faults_between(own, {theirs(name): value for name, value in named.items()})
    if faults:
        raise CheckpointError(
            f"{where} does not fit what the answers say: {'; '.join(faults)}. Check them."
        )


def config_of(told: Told, state: Mapping[str, Tensor], answers: Answers) -> AvsrConfig:
    """The model's configuration, from what is told and what was answered."""
    reduction, lora = reduction_of(told, answers), None
    if reduction is not None and answers.lora_alpha is not None:
        lora = LoraSettings(reduction, answers.lora_alpha, scheme=told.llm.scheme)
    rates: dict[str, Any] = {
        f"{stream}_rates": _rates(stream, told, answers) for stream in told.streams
    }
    normed = tuple(stream for stream, encoding in told.streams.items() if encoding.norm)
    encoders: dict[str, Any] = _encoders(told, state, answers)
    return AvsrConfig(
        llm=llm_fields(str(answers.llm), told.llm),
        **encoders,
        single_projector="audiovisual" in told.streams,
        **rates,
        compression=_compression(told, answers),
        projectors="per_rate" if told.per_rate else "shared",
        projector_width=told.projector_width,
        projector_norm=normed if 0 < len(normed) < len(told.streams) else bool(normed),
        lora=lora,
    )


def our_state(
    state: Mapping[str, Tensor], config: AvsrConfig, *, where: str = "The LLM"
) -> dict[str, Tensor]:
    """The published weights by the names that they have here, tied embeddings completed.

    Raises:
        CheckpointError: the configuration ties embedding and head, the checkpoint does not.
    """
    lora, rates = config.lora is not None, rates_by_index(config)
    named = {our_name(name, lora=lora, rates=rates): value for name, value in state.items()}
    for stream in ("audio", "video", "audiovisual"):
        named = named_as_published(named, f"{stream}_encoder.model.encoder.pos_conv.0.")
    head, embedding = "llm.lm_head.weight", "llm.model.embed_tokens.weight"
    rows, tied = named[embedding], config.llm.get("tie_word_embeddings")
    found = named.setdefault(head, rows) if tied else rows
    if found is not rows and not (found.shape == rows.shape and torch.equal(found, rows)):
        raise CheckpointError(
            f"{where} ties embedding and head, and the checkpoint's {head} differs from its "
            f"{embedding}; name the LLM that the checkpoint was trained on."
        )
    return named


def _base_sources(told: Told, answers: Answers) -> dict[str, str]:
    """Where the base model of each part is.

    Raises:
        InputError: one is named by its configuration or size alone, without weights.
    """
    hubert = answers.hubert({encoding.kind for encoding in told.streams.values()})
    sources = {"llm": str(answers.llm)}
    for stream, encoding in told.streams.items():
        part = "audiovisual_encoder" if told.joint else f"{stream}_encoder"
        sources[part] = str(hubert if encoding.kind == "avhubert" else answers.encoder)
    for part, source in sources.items():
        if source.endswith(".json") or source in SIZES:
            raise InputError(
                f"--adapters-only needs the weights of every base model, and {source!r} names "
                f"none for {part}; give its folder, hub id or .pt file."
            )
    return sources


def _encoders(
    told: Told, state: Mapping[str, Tensor], answers: Answers
) -> dict[str, EncoderConfig]:
    hubert = answers.hubert({encoding.kind for encoding in told.streams.values()})
    if told.joint:
        weights = part_of(state, "audiovisual_encoder")
        both = ("audio", "video")
        return {"audiovisual_encoder": avhubert_encoder(str(hubert), weights, streams=both)}
    found = {}
    for stream, encoding in told.streams.items():
        if encoding.kind == "avhubert":
            weights = part_of(state, f"{stream}_encoder")
            made = avhubert_encoder(str(hubert), weights, streams=(stream,))
        else:
            made = speech_encoder(encoding.kind, str(answers.encoder), width=encoding.width)
        found[f"{stream}_encoder"] = made
    return found


def rates_by_index(config: AvsrConfig) -> dict[str, tuple[int, ...]] | None:
    """The rates of each stream in the order of its projectors; None where all share one."""
    if config.projectors == "shared":
        return None
    return {stream: config.rates(stream) for stream in config.streams}


def _rates(stream: str, told: Told, answers: Answers) -> tuple[int, ...]:
    """Encoder frames a token: what is stacked, or what was answered."""
    encoding = told.streams[stream]
    return encoding.stacked if encoding.is_stacked else answers.rates(stream) or (1,)


def _compression(told: Told, answers: Answers) -> Literal["average", "stack"]:
    if any(encoding.is_stacked for encoding in told.streams.values()):
        return "stack"
    return "stack" if answers.compression == "stack" else "average"
