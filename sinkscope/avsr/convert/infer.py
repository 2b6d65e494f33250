"""What the names and shapes of a released checkpoint tell of the model, and what they don't."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sinkscope.avsr.convert.names import part_of, unknown_parts
from sinkscope.errors import CheckpointError

__all__ = ["Encoding", "LlmFacts", "Told", "what_is_told"]

Kind = Literal["whisper", "wavlm", "avhubert"]

_MARKS: dict[Kind, str] = {
    "whisper": "conv1.weight",
    "wavlm": "feature_extractor.conv_layers.0.conv.weight",
    "avhubert": "post_extract_proj.weight",
}
"""A weight that an encoder of each kind has, and the others have not."""

_AXES: dict[Kind, int] = {"whisper": 3, "wavlm": 1, "avhubert": 2}
"""How many axes the weight has that tells the encoder's width."""


@dataclass(frozen=True)
class Encoding:
    """One encoder with its projector.

    Attributes:
        kind: of the encoder.
        width: features of its frames.
        stacked: how many frames enter the projector side by side; 1 tells no rate.
    """

    kind: Kind
    width: int
    stacked: int


@dataclass(frozen=True)
class LlmFacts:
    """What the LLM's shapes tell.

    Attributes:
        hidden_size: features of its residual stream.
        vocabulary: rows of its embedding, the added tokens included.
        layers: how many blocks it has.
        rank: of the LoRA branches; None where there are none.
        intermediate_size: units of its feed-forward nets.
        key_width: features of its keys, of all heads together.
    """

    hidden_size: int
    vocabulary: int
    layers: int
    rank: int | None
    intermediate_size: int | None
    key_width: int | None


@dataclass(frozen=True)
class Told:
    """What a checkpoint tells.

    Attributes:
        streams: encoder and projector of each stream.
        llm: facts of the LLM.
        projector_width: units of the projectors' hidden layer.
        projector_norm: whether they end in a LayerNorm.
        joint: whether one AV-HuBERT encodes every stream.
    """

    streams: dict[str, Encoding]
    llm: LlmFacts
    projector_width: int
    projector_norm: bool
    joint: bool


def what_is_told(state: Mapping[str, Any], *, where: str) -> Told:
    """Reads names and shapes.

    Args:
        state: tensors (or anything with a shape) by published names.
        where: the file, for the message.

    Raises:
        CheckpointError: it is no Llama-AVSR.
    """
    strangers = unknown_parts(state)
    projectors = {
        stream: part_of(state, f"{stream}_proj") for stream in ("audio", "video", "audiovisual")
    }
    projectors = {stream: weights for stream, weights in projectors.items() if weights}
    llm = part_of(state, "llm")
    if strangers or not projectors or "model.embed_tokens.weight" not in llm:
        found = ", ".join((strangers or list(state))[:3]) or "nothing"
        raise CheckpointError(
            f"{where} is no Llama-AVSR: it holds {found}, where audio_proj.0.weight, "
            "video_proj.0.weight or audiovisual_proj.0.weight and llm.model.embed_tokens.weight "
            "are expected; give a released checkpoint."
        )
    _refuse_matryoshka(projectors, where)
    joint = bool(part_of(state, "audiovisual_encoder"))
    streams = {
        stream: _encoding(
            part_of(state, "audiovisual_encoder" if joint else f"{stream}_encoder"),
            weights,
            where=f"{where}, {stream}",
        )
        for stream, weights in projectors.items()
    }
    first = next(iter(projectors.values()))
    return Told(
        streams=streams,
        llm=_llm_facts(llm, where),
        projector_width=_sizes(first, "0.weight", 2, where)[0],
        projector_norm="3.weight" in first,
        joint=joint,
    )


def _encoding(encoder: Mapping[str, Any], projector: Mapping[str, Any], *, where: str) -> Encoding:
    kinds: list[Kind] = [kind for kind, mark in _MARKS.items() if mark in encoder]
    if len(kinds) != 1 or "0.weight" not in projector:
        raise CheckpointError(
            f"{where}: the encoder's weights are none of Whisper, WavLM and AV-HuBERT, or the "
            "projector has no 0.weight; give a whole checkpoint."
        )
    mark = "encoder.layer_norm.weight" if kinds[0] == "wavlm" else _MARKS[kinds[0]]
    width = _sizes(encoder, mark, _AXES[kinds[0]], where)[0]
    inputs = _sizes(projector, "0.weight", 2, where)[1]
    if inputs % width or not inputs:
        raise CheckpointError(
            f"{where}: the projector takes {inputs} features, which is no multiple of the "
            f"encoder's {width}; encoder and projector are not of one model."
        )
    return Encoding(kinds[0], width, inputs // width)


def _refuse_matryoshka(projectors: Mapping[str, Mapping[str, Any]], where: str) -> None:
    """Refuses a model with one projector a rate, as Omni-AVSR has (arXiv 2511.07253)."""
    for stream, weights in projectors.items():
        rates = sorted({name.partition(".")[0] for name in weights if name.count(".") > 1})
        if rates:
            raise CheckpointError(
                f"{where} is an Omni-AVSR: its {stream}_proj has one projector for each of "
                f"{len(rates)} rates ({', '.join(rates)}); only Llama-AVSR's are converted."
            )


def _llm_facts(llm: Mapping[str, Any], where: str) -> LlmFacts:
    rows, hidden = _sizes(llm, "model.embed_tokens.weight", 2, where)
    numbers = {name.split(".")[2] for name in llm if name.startswith("model.layers.")}
    return LlmFacts(
        hidden,
        rows,
        layers=1 + max((int(number) for number in numbers if number.isdecimal()), default=-1),
        rank=_rows(llm, "self_attn.lora_down_Q.weight", where),
        intermediate_size=_rows(llm, "mlp.up_proj.weight", where),
        key_width=_rows(llm, "self_attn.k_proj.weight", where),
    )


def _rows(llm: Mapping[str, Any], name: str, where: str) -> int | None:
    """Rows of a weight of the first block that has it; None where there is none."""
    found = next((key for key in llm if key.endswith(f".{name}")), None)
    return None if found is None else _sizes(llm, found, 2, where)[0]


def _sizes(state: Mapping[str, Any], name: str, axes: int, where: str) -> tuple[int, ...]:
    """The shape of a weight that must have so many axes, none of them empty."""
    shape = tuple(map(int, state[name].shape)) if name in state else None
    if shape is None or len(shape) != axes or 0 in shape:
        fault = "is missing" if shape is None else f"has shape {shape}"
        raise CheckpointError(f"{where}: {name} {fault}; give a whole checkpoint.")
    return shape
