"""Only what was trained: a model folder that refers to its base models instead of holding them.

``adapters.safetensors`` holds every weight in which the model differs from its bases, bit by bit:
projectors, LoRA branches, the embeddings of the added tokens, BatchNorm statistics that drifted.
``bases.json`` names each base model, with a hash of all its weights, which is checked when the
model is put together again.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sinkscope.avsr.base_models import BASES, READERS, WHOLE, is_whole, located
from sinkscope.avsr.checkpoint import new_folder, read_weights, state_hash, write_state
from sinkscope.avsr.lora_names import peft_name
from sinkscope.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from sinkscope.avsr.config import AvsrConfig
    from sinkscope.avsr.model import LlamaAvsr

__all__ = [
    "ADAPTERS",
    "BASES",
    "Base",
    "bases_of",
    "complete",
    "has_adapters",
    "save_adapters",
    "write_adapters",
]

ADAPTERS = "adapters.safetensors"

_ADDED = ".added_rows"
"""Ending of the name of rows that follow those of a base's weight."""


@dataclass(frozen=True)
class Base:
    """A base model: a part of the whole, and where its weights are.

    Attributes:
        part: ``"llm"``, ``"audio_encoder"``, ``"video_encoder"`` or ``"audiovisual_encoder"``.
        kind: ``"llm"``, ``"whisper"``, ``"wavlm"`` or ``"avhubert"``; or ``"avsr"``, the same part
            of another audio-visual LLM of this package.
        source: folder or hub id; of AV-HuBERT, the ``.pt`` file. A folder beside the model's own
            is named relative to it, so that the two can be moved together.
        revision: the commit of a hub id.
        hash: of its weights.
        dtype: in which the whole model holds them.
    """

    part: str
    kind: str
    source: str
    revision: str | None = None
    hash: str = ""
    dtype: str = "float32"


def has_adapters(folder: Path) -> bool:
    """Whether a model folder refers to base models."""
    return (folder / BASES).is_file()


def bases_of(config: "AvsrConfig", sources: Mapping[str, str]) -> list[Base]:
    """The base models of a model.

    Args:
        config: of the model.
        sources: folder, hub id or ``.pt`` file of each part: ``"llm"`` and the encoders by the
            names of their fields in the configuration. The folder of another audio-visual LLM
            stands for the part of it that has the same name.

    Raises:
        InputError: a part is missing or unknown, or its kind has no published weights.
    """
    kinds = {"llm": "llm"}
    for part in ("audio_encoder", "video_encoder", "audiovisual_encoder"):
        encoder = getattr(config, part)
        if encoder is not None:
            kinds[part] = encoder.kind.partition("-")[0]
    kinds |= {part: WHOLE for part in kinds.keys() & sources.keys() if is_whole(sources[part])}
    missing, unknown = sorted(kinds.keys() - sources.keys()), sorted(sources.keys() - kinds.keys())
    if missing or unknown:
        raise InputError(
            f"Base models are needed for {', '.join(kinds)}, and those for "
            f"{', '.join(missing) or 'no part'} are missing, those for "
            f"{', '.join(unknown) or 'no part'} too many; give one source for each part."
        )
    odd = [part for part, kind in kinds.items() if kind not in READERS]
    if odd:
        raise InputError(
            f"The {odd[0]} of this model is of kind {kinds[odd[0]]!r}, which has no published "
            "weights to refer to; save the whole model."
        )
    return [Base(part, kind, sources[part]) for part, kind in kinds.items()]


def write_adapters(
    state: Mapping[str, Tensor], bases: Iterable[Base], folder: Path, *, lora: bool
) -> int:
    """Writes what a model adds to its bases, which are read one after the other.

    Args:
        state: the whole model's weights.
        bases: what it is built on, from `bases_of`.
        folder: where ``adapters.safetensors`` and ``bases.json`` go.
        lora: whether the LLM has LoRA branches.

    Returns:
        How many weights differ from the bases or are not in them.

    Raises:
        CheckpointError: a base cannot be read.
    """
    different, listed = dict(state), []
    for given in bases:
        base = replace(given, source=located(given.source))
        found, revision = _read(base, lora=lora)
        extra = sorted(found.keys() - state.keys())
        if extra:
            raise CheckpointError(
                f"The base model {base.source} ({base.part}) has weights that the model has not, "
                f"{extra[0]} among them; give the base that it was trained from, or save it whole."
            )
        dtype = _dtype_of(state, base.part)
        for name in found.keys() & state.keys():
            del different[name]
            different |= _difference(name, state[name], _as(found[name], dtype))
        listed.append(
            asdict(base)
            | {
                "source": _beside(base.source, folder),
                "revision": revision,
                "hash": state_hash(found),
                "dtype": str(dtype).removeprefix("torch."),
            }
        )
        del found
    write_state(different.items(), folder, name=ADAPTERS)
    (folder / BASES).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
    return len(different)


def save_adapters(model: "LlamaAvsr", folder: str | Path, sources: Mapping[str, str]) -> int:
    """Writes a model's folder without what its bases hold; ``from_pretrained`` reads it.

    Whatever differs from a base is stored, so load a model in the dtypes of its files
    (``dtype=None``) if little shall be: an encoder that was rounded differs everywhere.

    Args:
        model: what is saved, each weight in the dtype that it has.
        folder: where; it must not exist.
        sources: see `bases_of`.

    Returns:
        How many weights were stored.

    Raises:
        InputError: see `bases_of`; or the folder exists.
        CheckpointError: a base cannot be read.
    """
    bases = bases_of(model.config, sources)
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    with new_folder(Path(folder)) as temporary:
        count = write_adapters(state, bases, temporary, lora=model.config.lora is not None)
        model.config.save(temporary)
        model.tokenizer.save_pretrained(temporary)
    return count


def complete(folder: Path, *, lora: bool) -> dict[str, Tensor]:
    """The whole model's weights, from its folder and its bases.

    Raises:
        CheckpointError: a base cannot be read, or is another than the model was built on.
    """
    state: dict[str, Tensor] = {}
    for base in _listed(folder / BASES):
        own, _ = _read(base, lora=lora)
        found = state_hash(own)
        if found != base.hash:
            raise CheckpointError(
                f"{folder} was trained on another {base.part} than {base.source} holds now (its "
                f"hash is {found}, not {base.hash}); restore that model."
            )
        dtype = getattr(torch, base.dtype)
        state |= {name: _as(value, dtype) for name, value in own.items()}
    for name, value in read_weights(folder, name=ADAPTERS).items():
        whole = name.removesuffix(_ADDED)
        if whole != name and whole not in state:
            raise CheckpointError(
                f"{folder / ADAPTERS} adds rows to {whole}, which no base model has; restore both "
                f"it and {BASES}."
            )
        state[whole] = value if whole == name else torch.cat([state[whole].to(value), value])
    return state


def _beside(source: str, folder: Path) -> str:
    """A source that lies in the same folder as the model's own, relative to that."""
    near = Path(source).is_absolute() and Path(source).parent == folder.resolve().parent
    return f"../{Path(source).name}" if near else source


def _listed(path: Path) -> list[Base]:
    try:
        bases = [Base(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
        raise CheckpointError(
            f"{path} lists no base models ({error}); restore the file."
        ) from error
    for base in bases:
        if base.kind not in READERS or not isinstance(getattr(torch, base.dtype, 0), torch.dtype):
            raise CheckpointError(
                f"{path} lists a base model of kind {base.kind!r} and dtype {base.dtype!r}, which "
                "there is not; restore the file."
            )
    return [_found(base, path.parent) for base in bases]


def _found(base: Base, folder: Path) -> Base:
    """The base, its source found from wherever the program runs."""
    if not base.source.startswith("../"):
        return base
    places = [folder.resolve(), (folder / BASES).resolve().parent]
    found = [place / base.source for place in places if (place / base.source).exists()]
    return replace(base, source=str((found or [places[0] / base.source])[0]))


def _difference(name: str, value: Tensor, base: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What must be stored of a weight: nothing, the rows that follow the base's, or all."""
    if base.dtype != value.dtype or base.shape[1:] != value.shape[1:] or not value.ndim:
        same = base.dtype == value.dtype and torch.equal(base, value)
    else:
        same = len(base) <= len(value) and torch.equal(base, value[: len(base)])
        if same and len(base) < len(value):
            yield name + _ADDED, value[len(base) :]
    if not same:
        yield name, value


def _dtype_of(state: Mapping[str, Tensor], part: str) -> torch.dtype:
    """The dtype of most floating-point numbers of a part."""
    sizes: Counter[torch.dtype] = Counter()
    for name, value in state.items():
        if name.startswith(f"{part}.") and value.is_floating_point():
            sizes[value.dtype] += value.numel()
    return sizes.most_common(1)[0][0] if sizes else torch.float32


def _as(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def _read(base: Base, *, lora: bool) -> tuple[dict[str, Tensor], str | None]:
    """A base's weights by the names that they have in the whole model, and its revision."""
    try:
        own, revision = READERS[base.kind](base.source, base.revision)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0][:200].rstrip(".")
        raise CheckpointError(
            f"The base model {base.source!r} ({base.part}) cannot be read ({reason}); restore it, "
            f"or write into {BASES} where it is now."
        ) from error
    if base.kind == WHOLE:
        named = {name: own[name] for name in own if name.startswith(f"{base.part}.")}
        if base.part == "llm" and lora and not any(".base_layer." in name for name in named):
            named = {f"llm.{peft_name(n.removeprefix('llm.'))}": own[n] for n in named}
    elif base.part == "llm":
        named = {f"llm.{peft_name(name) if lora else name}": own[name] for name in own}
    else:
        named = {f"{base.part}.model.{name}": own[name] for name in own}
    return named, revision
