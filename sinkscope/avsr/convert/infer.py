"""What the names and shapes of a released checkpoint tell of the model, and what they don't."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sinkscope.avsr.convert.names import part_of, unknown_parts
from sinkscope.avsr.lora_schemes import tasks_of
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
    """One encoder with its projector, or with one projector for each rate.

    Attributes:
        kind: of the encoder.
        width: features of its frames.
        stacked: how many frames enter each projector side by side; 1 tells no rate.
        norm: whether the projectors end in a LayerNorm.
    """

    kind: Kind
    width: int
    stacked: tuple[int, ...]
    norm: bool = False

    @property
    def is_stacked(self) -> bool:
        """Whether frames are known to have been put side by side."""
        return max(self.stacked) > 1


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
        scheme: of the LoRA branches.
    """

    hidden_size: int
    vocabulary: int
    layers: int
    rank: int | None
    intermediate_size: int | None
    key_width: int | None
    scheme: str = "S"


@dataclass(frozen=True)
class Told:
    """What a checkpoint tells.

    Attributes:
        streams: encoder and projector of each stream.
        llm: facts of the LLM.
        projector_width: units of the projectors' hidden layer.
        per_rate: whether every rate has a projector of its own, as in Omni-AVSR
            (arXiv 2511.07253).
        joint: whether one AV-HuBERT encodes every stream.
    """

    streams: dict[str, Encoding]
    llm: LlmFacts
    projector_width: int
    per_rate: bool
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
    own = {
        stream: _by_rate(weights, f"{where}, {stream}") for stream, weights in projectors.items()
    }
    several = next((stream for stream, found in own.items() if found is not None), None)
    one = next((stream for stream, found in own.items() if found is None), None)
    if several is not None and one is not None:
        raise CheckpointError(
            f"{where}: {several}_proj has a projector for each rate, and {one}_proj one for all, "
            "which no published model has; give a whole checkpoint."
        )
    each = {stream: found or [projectors[stream]] for stream, found in own.items()}
    joint = bool(part_of(state, "audiovisual_encoder"))
    streams = {
        stream: _encoding(
            part_of(state, "audiovisual_encoder" if joint else f"{stream}_encoder"),
            weights,
            where=f"{where}, {stream}",
        )
        for stream, weights in each.items()
    }
    return Told(
        streams=streams,
        llm=_llm_facts(llm, tuple(streams), where),
        projector_width=_sizes(next(iter(each.values()))[0], "0.weight", 2, where)[0],
        per_rate=several is not None,
        joint=joint,
    )


def _by_rate(projector: Mapping[str, Any], where: str) -> list[dict[str, Any]] | None:
    """The projectors of a stream in their order; None where one serves all rates.

    Raises:
        CheckpointError: their numbers are not those from 0 on.
    """
    numbers = {name.partition(".")[0] for name in projector if name.count(".") > 1}
    if not numbers:
        return None
    wanted = [str(number) for number in range(len(numbers))]
    if numbers != set(wanted) or any(name.count(".") < 2 for name in projector):
        raise CheckpointError(
            f"{where}: the projectors of the rates are numbered {', '.join(sorted(numbers))}, not "
            "from 0 on, or one has no number; give a whole checkpoint."
        )
    return [part_of(projector, number) for number in wanted]


def _encoding(
    encoder: Mapping[str, Any], projectors: Sequence[Mapping[str, Any]], *, where: str
) -> Encoding:
    kinds: list[Kind] = [kind for kind, mark in _MARKS.items() if mark in encoder]
    if len(kinds) != 1 or any("0.weight" not in projector for projector in projectors):
        raise CheckpointError(
            f"{where}: the encoder's weights are none of Whisper, WavLM and AV-HuBERT, or the "
            "projector has no 0.weight; give a whole checkpoint."
        )
    mark = "encoder.layer_norm.weight" if kinds[0] == "wavlm" else _MARKS[kinds[0]]
    width = _sizes(encoder, mark, _AXES[kinds[0]], where)[0]
    stacked = tuple(_stacked(projector, width, where) for projector in projectors)
    norms = {"3.weight" in projector for projector in projectors}
    if len(norms) > 1:
        raise CheckpointError(
            f"{where}: some of the projectors end in a LayerNorm and some do not; give a whole "
            "checkpoint."
        )
    return Encoding(kinds[0], width, stacked, norms.pop())


def _stacked(projector: Mapping[str, Any], width: int, where: str) -> int:
    """How many frames of the encoder enter a projector side by side."""
    inputs = _sizes(projector, "0.weight", 2, where)[1]
    if inputs % width or not inputs:
        raise CheckpointError(
            f"{where}: the projector takes {inputs} features, which is no multiple of the "
            f"encoder's {width}; encoder and projector are not of one model."
        )
    return inputs // width


def _llm_facts(llm: Mapping[str, Any], streams: tuple[str, ...], where: str) -> LlmFacts:
    rows, hidden = _sizes(llm, "model.embed_tokens.weight", 2, where)
    numbers = {name.split(".")[2] for name in llm if name.startswith("model.layers.")}
    return LlmFacts(
        hidden,
        rows,
        layers=1 + max((int(number) for number in numbers if number.isdecimal()), default=-1),
        rank=_rank(llm, where),
        intermediate_size=_rows(llm, "mlp.up_proj.weight", where),
        key_width=_rows(llm, "self_attn.k_proj.weight", where),
        scheme=_scheme(llm, streams, where),
    )


def _rank(llm: Mapping[str, Any], where: str) -> int | None:
    found = next((name for name in llm if ".lora_down_Q" in name), None)
    return None if found is None else _sizes(llm, found, 2, where)[0]


def _scheme(llm: Mapping[str, Any], streams: tuple[str, ...], where: str) -> str:
    """The scheme of the LoRA branches, from their names.

    Raises:
        CheckpointError: a task of the model has no branch of its own where others have; a branch
            of no task.
    """
    branches = re.compile(r"\.lora_(?:down|up)_[QV](_shared|\.[\w-]+)?\.weight$")
    found = {match[1] or "" for match in map(branches.search, llm) if match}
    if found <= {""}:
        return "S"
    tasks = {f".{task}" for task in tasks_of(streams)}
    strange, missing = sorted(found - tasks - {"_shared"}), sorted(tasks - found)
    if strange or missing:
        names = ", ".join(one.strip("._") or "one without a name" for one in strange)
        raise CheckpointError(
            f"{where}: of the LoRA branches of its tasks, "
            f"{', '.join(one.strip('.') for one in missing) or 'none'} is missing and "
            f"{names or 'none'} is too many; give a whole checkpoint."
        )
    return "ST" if "_shared" in found else "T"


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
