"""Model folders: ``config.json``, safetensors, the tokenizer. Nothing is unpickled."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sinkscope.errors import CheckpointError, InputError

__all__ = [
    "WEIGHTS",
    "faults_between",
    "faults_of",
    "fill",
    "load_weights",
    "new_folder",
    "read_weights",
    "refuse_faults",
    "state_hash",
    "write_state",
    "write_weights",
]

WEIGHTS = "model.safetensors"
"""The file that holds the weights."""

SHARD_BYTES = 5 * 10**9
"""Weights that take more are written into several files."""

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which has its name only once it is whole.

    Raises:
        InputError: it exists.
    """
    if folder.exists():
        raise InputError(f"{folder} exists; name a folder that does not.")
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_weights(model: nn.Module, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Writes a model's state, its floating-point numbers in ``dtype``, into a folder."""
    state = {
        name: value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
        for name, value in model.state_dict().items()
    }
    write_state(state.items(), folder)


def write_state(state: Iterable[tuple[str, Tensor]], folder: Path, *, name: str = WEIGHTS) -> None:
    """Writes tensors as safetensors; several files and an index where they are large.

    Args:
        state: names and tensors, one at a time, so that many gigabytes can stream through.
        folder: where they go.
        name: of the file, or of the files' common beginning.
    """
    from safetensors.torch import save_file

    metadata = {"format": "pt"}
    shards = list(_write_parts(state, folder, name))
    if len(shards) == 1:
        (folder / _part(name, 0)).replace(folder / name)
        return
    where: dict[str, str] = {}
    for number, names in enumerate(shards):
        final = f"{Path(name).stem}-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / _part(name, number)).replace(folder / final)
        where |= dict.fromkeys(names, final)
    if not shards:
        save_file({}, folder / name, metadata=metadata)
        return
    index = {"metadata": {}, "weight_map": where}
    (folder / f"{name}.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _write_parts(
    state: Iterable[tuple[str, Tensor]], folder: Path, name: str
) -> Iterator[list[str]]:
    """Writes one part after the other and gives the names in each."""
    from safetensors.torch import save_file

    held: dict[str, Tensor] = {}
    size, count = 0, 0
    for key, value in state:
        own = value.numel() * value.element_size()
        if held and size + own > SHARD_BYTES:
            save_file(held, folder / _part(name, count), metadata={"format": "pt"})
            yield list(held)
            held, size, count = {}, 0, count + 1
        shares = any(value.data_ptr() == other.data_ptr() for other in held.values())
        held[key] = value.clone() if shares and value.numel() else value.contiguous()
        size += own
    if held:
        save_file(held, folder / _part(name, count), metadata={"format": "pt"})
        yield list(held)


def _part(name: str, number: int) -> str:
    return f"{Path(name).stem}.{number}.part"


def read_weights(folder: Path, *, name: str = WEIGHTS) -> dict[str, Tensor]:
    """The tensors of a model folder, as they lie on disk.

    Raises:
        CheckpointError: no such file, only pickled weights, or a damaged file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / name
    state: dict[str, Tensor] = {}
    for part in _files(folder, name):
        path = folder / part
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist: {_advice(folder)}.")
        try:
            state |= load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); restore the file.") from error
    return state


def _files(folder: Path, name: str) -> list[str]:
    """The file, or those that its index lists."""
    index = folder / f"{name}.index.json"
    if (folder / name).is_file() or not index.is_file():
        return [name]
    try:
        listed: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted({Path(part).name for part in listed.values()})
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of weights; restore the file.") from error


def _advice(folder: Path) -> str:
    pickles = sorted(found.name for mask in _PICKLES for found in folder.glob(mask))
    if pickles:
        return (
            f"only pickled weights ({', '.join(pickles)}), which are never loaded here; save the "
            "model as safetensors, or give a released Llama-AVSR checkpoint to sinkscope convert"
        )
    return "name a folder made by save_pretrained"


def load_weights(model: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Copies weights into a model, in the model's own dtype.

    Args:
        model: what is filled, in place.
        state: tensors by name; every name and shape must be the model's.
        where: the file, for the message.

    Raises:
        CheckpointError: names are missing or unexpected, or shapes differ; all are listed.
    """
    refuse_faults(faults_of(model, state), where=f"{where} does not fit its config.json")
    model.load_state_dict(dict(state))


def fill(
    model: nn.Module, state: Mapping[str, Tensor], *, where: str, dtype: torch.dtype | None
) -> None:
    """Gives a model that was built without memory its weights.

    Args:
        model: built on the meta device, its buffers in memory; changed in place.
        state: tensors by name; every name and shape must be the model's.
        where: the file, for the message.
        dtype: of floating-point numbers; None leaves them as they are.

    Raises:
        CheckpointError: see `load_weights`.
    """
    refuse_faults(faults_of(model, state), where=f"{where} does not fit its config.json")
    cast = {
        name: value.to(dtype) if dtype and value.is_floating_point() else value
        for name, value in state.items()
    }
    model.load_state_dict(cast, assign=True)
    for module in model.modules():
        tie: Any = getattr(module, "tie_weights", None)
        if tie is not None and getattr(module.config, "tie_word_embeddings", False):
            tie()


def faults_of(model: nn.Module, state: Mapping[str, Any]) -> list[str]:
    """What keeps a state dict from fitting: names missing, unexpected, or of another shape."""
    return faults_between(model.state_dict(), state)


def faults_between(own: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    """The same, of a model that is given by its own tensors by name."""
    shared = own.keys() & state.keys()
    faults = [f"missing {name}" for name in sorted(own.keys() - state.keys())]
    faults += [f"unexpected {name}" for name in sorted(state.keys() - own.keys())]
    return faults + [
        f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in sorted(shared)
        if own[name].shape != state[name].shape
    ]


def refuse_faults(faults: list[str], *, where: str) -> None:
    """Refuses if there is a fault.

    Raises:
        CheckpointError: listing all of them.
    """
    if faults:
        raise CheckpointError(f"{where}: {'; '.join(faults)}. Use the two as they were saved.")


def state_hash(state: Mapping[str, Tensor]) -> str:
    """A hash of weights: names, dtypes, shapes and every number.

    >>> state_hash({"a": torch.ones(2)}) == state_hash({"a": torch.ones(2)})
    True
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        weight = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        if weight.numel():
            digest.update(weight.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
