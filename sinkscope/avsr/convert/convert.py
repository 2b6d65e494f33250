"""A released Llama-AVSR checkpoint becomes a folder that this package reads.

```python
done = convert("released.pth", "model", Answers(llm="meta-llama/Llama-3.1-8B",
               encoder="openai/whisper-medium.en", video_encoder="large", lora_alpha=8))
done.left_out      # weights that play no part in the model, by name
```

The checkpoint holds the whole model. Its tensors are written as they are, bit by bit and one at a
time; nothing in it is run.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate import init_empty_weights
from torch import Tensor

from sinkscope.avsr.adapters import Base, write_adapters
from sinkscope.avsr.avhubert.transformer import named_as_published
from sinkscope.avsr.checkpoint import faults_of, write_state
from sinkscope.avsr.config import AvsrConfig, EncoderConfig, LoraSettings
from sinkscope.avsr.convert.infer import Encoding, Told, what_is_told
from sinkscope.avsr.convert.names import is_left_out, our_name, part_of
from sinkscope.avsr.convert.sources import (
    SIZES,
    Answers,
    avhubert_encoder,
    llm_fields,
    speech_encoder,
    tokenizer_of,
)
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.errors import CheckpointError, InputError

__all__ = ["Converted", "convert", "read_released"]


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
    _refuse_unanswered(told, answers)
    config = config_of(told, state, answers)
    tokenizer = tokenizer_of(answers.tokenizer or str(answers.llm), vocabulary=told.llm.vocabulary)
    named = our_state(state, config)
    with init_empty_weights(include_buffers=False):
        model = LlamaAvsr(config, tokenizer)
    faults = faults_of(model, named)
    if faults:
        raise CheckpointError(
            f"{source} does not fit what the answers say: {'; '.join(faults)}. Check them."
        )
    bases = bases_of(told, answers) if adapters_only else []
    temporary = out.with_name(f".{out.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        config.save(temporary)
        count = len(named)
        if adapters_only:
            count = write_adapters(named, bases, temporary, lora=config.lora is not None)
        else:
            write_state(named.items(), temporary)
        tokenizer.save_pretrained(temporary)
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Converted(out, config, count, left_out)


def read_released(path: Path) -> dict[str, Tensor]:
    """The tensors of a released checkpoint by their published names; nothing in the file is run.

    Raises:
        CheckpointError: no such file, no checkpoint, or one that holds more than tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is no file; give a released checkpoint (.pth).")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a damaged or malicious file makes of the reader
        reason = " ".join(str(error).split())
        reason = reason.partition("WeightsUnpickler error: ")[2] or reason
        raise CheckpointError(
            f"{path} is no whole checkpoint of tensors ({reason[:160]}); download it again."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no tensors by name; give a released checkpoint.")
    odd = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if odd:
        raise CheckpointError(
            f"{path} holds {', '.join(odd[:3])} beside tensors; give a released checkpoint."
        )
    return {str(name).removeprefix("model."): value for name, value in content.items()}


def config_of(told: Told, state: Mapping[str, Tensor], answers: Answers) -> AvsrConfig:
    """The model's configuration, from what is told and what was answered."""
    rank = told.llm.rank
    reduction = None if rank is None else told.llm.hidden_size / rank
    lora = None
    if reduction is not None and answers.lora_alpha is not None:
        lora = LoraSettings(reduction, answers.lora_alpha)
    rates: dict[str, Any] = {
        f"{stream}_rates": (_rate(stream, told, answers),) for stream in told.streams
    }
    encoders: dict[str, Any] = _encoders(told, state, answers)
    return AvsrConfig(
        llm=llm_fields(
            str(answers.llm),
            hidden_size=told.llm.hidden_size,
            vocabulary=told.llm.vocabulary,
            layers=told.llm.layers,
        ),
        **encoders,
        single_projector="audiovisual" in told.streams,
        **rates,
        compression=_compression(told, answers),
        projector_width=told.projector_width,
        projector_norm=told.projector_norm,
        lora=lora,
    )


def bases_of(told: Told, answers: Answers) -> list[Base]:
    """The base models that the answers name.

    Raises:
        InputError: one is named by its configuration or size alone, without weights.
    """
    bases = [Base("llm", "llm", str(answers.llm))]
    for stream, encoding in told.streams.items():
        part = "audiovisual_encoder" if told.joint else f"{stream}_encoder"
        hubert = encoding.kind == "avhubert"
        source = str(answers.video_encoder if hubert else answers.encoder)
        base = Base(part, encoding.kind, source)
        bases += [base] if base not in bases else []
    for base in bases:
        if base.source.endswith(".json") or base.source in SIZES:
            raise InputError(
                f"--adapters-only needs the weights of every base model, and {base.source!r} names "
                f"none for {base.part}; give its folder, hub id or .pt file."
            )
    return bases


def our_state(state: Mapping[str, Tensor], config: AvsrConfig) -> dict[str, Tensor]:
    """The published weights by the names that they have here, tied embeddings completed."""
    lora = config.lora is not None
    named = {our_name(name, lora=lora): value for name, value in state.items()}
    for stream in ("audio", "video", "audiovisual"):
        named = named_as_published(named, f"{stream}_encoder.model.encoder.pos_conv.0.")
    head, embedding = "llm.lm_head.weight", "llm.model.embed_tokens.weight"
    if head not in named and config.llm.get("tie_word_embeddings"):
        named[head] = named[embedding]
    return named


def _encoders(
    told: Told, state: Mapping[str, Tensor], answers: Answers
) -> dict[str, EncoderConfig]:
    if told.joint:
        weights = part_of(state, "audiovisual_encoder")
        both = ("audio", "video")
        return {
            "audiovisual_encoder": avhubert_encoder(
                str(answers.video_encoder), weights, streams=both
            )
        }
    found = {}
    for stream, encoding in told.streams.items():
        if encoding.kind == "avhubert":
            weights = part_of(state, f"{stream}_encoder")
            made = avhubert_encoder(str(answers.video_encoder), weights, streams=(stream,))
        else:
            made = speech_encoder(encoding.kind, str(answers.encoder), width=encoding.width)
        found[f"{stream}_encoder"] = made
    return found


def _rate(stream: str, told: Told, answers: Answers) -> int:
    """Encoder frames a token: what is stacked, or what was answered."""
    stacked = told.streams[stream].stacked
    asked = answers.audio_rate if stream == "audio" else answers.video_rate
    if stacked > 1:
        if asked not in (None, stacked):
            raise CheckpointError(
                f"The {stream} projector takes {stacked} stacked frames, and the {stream} rate was "
                f"said to be {asked}; leave it out."
            )
        return stacked
    return asked or 1


def _compression(told: Told, answers: Answers) -> Literal["average", "stack"]:
    stacks = any(encoding.stacked > 1 for encoding in told.streams.values())
    return "stack" if stacks else cast('Literal["average", "stack"]', answers.compression)


def _refuse_unanswered(told: Told, answers: Answers) -> None:
    """Ask in one sentence for everything that the checkpoint does not tell."""
    missing = []
    if answers.llm is None:
        missing.append("--llm (folder, hub id or config.json of its LLM)")
    kinds = {encoding.kind for encoding in told.streams.values()}
    for kind in sorted(kinds - {"avhubert"}):
        if answers.encoder is None:
            missing.append(f"--encoder (folder, hub id or config.json of its {kind})")
    if "avhubert" in kinds and answers.video_encoder is None:
        missing.append("--video-encoder (large, base, or AV-HuBERT's .pt file)")
    if told.llm.rank is not None and answers.lora_alpha is None:
        missing.append(f"--lora-alpha (the authors' alpha; its LoRA has rank {told.llm.rank})")
    missing += _unsaid_rates(told.streams, answers)
    if answers.tokenizer is None and str(answers.llm).endswith(".json"):
        missing.append("--tokenizer (folder or hub id of the LLM's tokenizer)")
    if missing:
        raise InputError(f"The checkpoint does not tell everything; give {', '.join(missing)}.")


def _unsaid_rates(streams: Mapping[str, Encoding], answers: Answers) -> list[str]:
    """What must be said of compression: one frame a token may be an average of several."""
    if any(encoding.stacked > 1 for encoding in streams.values()):
        return []
    missing = []
    if answers.compression not in ("average", "stack"):
        missing.append("--compression (average, or stack for a rate of 1)")
    if answers.compression == "average":
        asked = {"audio": answers.audio_rate}
        for stream in streams:
            if asked.get(stream, answers.video_rate) is None:
                option = "--audio-rate" if stream == "audio" else "--video-rate"
                missing.append(f"{option} (frames that were averaged into a token)")
    return missing
