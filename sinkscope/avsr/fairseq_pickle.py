"""Reads a fairseq checkpoint without fairseq, and without running anything that is in the file.

A pickle names functions that its reader shall call. Here every name is looked up in a short list:
what rebuilds tensors, a few plain containers, and, in place of configuration classes, inert stubs
that hold what they are given. Any other name is refused before it is looked up, and so is whatever
would change an object that is no stub.

```python
checkpoint = read_fairseq_checkpoint("large_vox_iter5.pt")
checkpoint.cfg["model"]["encoder_layers"]           # 24
checkpoint.state["encoder.layers.0.fc1.weight"]     # a tensor
```
"""

import builtins
import collections
import os
import pickle
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, _utils

from sinkscope.errors import CheckpointError

__all__ = ["FairseqCheckpoint", "read_fairseq_checkpoint"]

_REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
_PLAIN = (
    *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list"),
    *("object", "set", "str", "tuple"),
)
_OLD = {"long": "int", "unicode": "str"}
_CONTAINERS = (collections.OrderedDict, collections.defaultdict)
_STUBBED = (
    *("argparse", "avhubert", "enum", "examples", "fairseq", "hubert", "hubert_asr"),
    *("hubert_dataset", "hubert_pretraining", "hydra", "numpy", "omegaconf", "pathlib", "typing"),
)
_STUBBED_FUNCTIONS = (
    *(("operator", "getitem"), ("_operator", "getitem")),
    *(("copyreg", "_reconstructor"), ("copy_reg", "_reconstructor")),
)
_ZIPPED = b"PK\x03\x04"


@dataclass(frozen=True, eq=False)
class FairseqCheckpoint:
    """What a fairseq checkpoint holds for those who only want the model.

    Attributes:
        state: the model's tensors by name.
        cfg: its configuration as plain dictionaries, lists, numbers and words; its part ``model``
            is empty if the file has none. References (``${task.name}``) stay words.
    """

    state: dict[str, Tensor]
    cfg: dict[str, Any]


def read_fairseq_checkpoint(path: str | PathLike[str]) -> FairseqCheckpoint:
    """The weights and configuration of a fairseq ``.pt`` file, on the CPU.

    Raises:
        CheckpointError: no such file; no checkpoint, or a damaged one; a name in it that could
            run code; no model in it.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is no file; give a fairseq checkpoint (.pt).")
    _refuse_setting()
    try:
        _refuse_other_loaders(path)
        content = torch.load(
            path, map_location="cpu", pickle_module=_SAFE, weights_only=False, mmap=False
        )
        return _checkpoint(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # whatever a damaged pickle makes of the unpickler
        reason = _line(error) or type(error).__name__
        raise CheckpointError(
            f"{path} is no whole checkpoint of PyTorch ({reason}); download it again."
        ) from error


def _line(said: object) -> str:
    return " ".join(str(said).split())[:160]


def _refuse_setting() -> None:
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    if os.environ.get(name, "0").lower() in ("1", "y", "yes", "true"):
        raise CheckpointError(
            f"{name} is set, and PyTorch then reads no fairseq checkpoint; unset it (nothing in "
            "the file is run without it either)."
        )


def _refuse_other_loaders(path: Path) -> None:
    """Refuse what ``torch.load`` would not hand to the unpickler below alone."""
    with path.open("rb") as file:
        zipped = file.read(len(_ZIPPED)) == _ZIPPED
    if zipped:
        records = torch._C.PyTorchFileReader(str(path)).get_all_records()
        if "constants.pkl" in records:
            raise CheckpointError("this is a TorchScript program; give a fairseq checkpoint.")
    elif tarfile.is_tarfile(path):
        raise CheckpointError("this is a tar archive; give a fairseq checkpoint.")


def _checkpoint(content: Any) -> FairseqCheckpoint:
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        held = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else ""
        raise CheckpointError(
            f"this is no fairseq checkpoint: it holds {_line(held) or type(content).__name__}, and "
            "no 'model' with tensors; give the file that fairseq saved."
        )
    parts = [_plain(content.get(name), {}) for name in ("cfg", "args")]
    told = next((part for part in parts if isinstance(part, dict) and part), {})
    return FairseqCheckpoint(dict(state), told if "model" in told else {"model": told})


class _Stub:
    """Stands for an object of a class that is not loaded; holds what the pickle gave it."""

    given: tuple[Any, ...]
    state: Any
    entries: dict[Any, Any]
    values: list[Any]

    def __new__(cls, *given: Any, **named: Any) -> "_Stub":
        made = super().__new__(cls)
        made.given, made.state, made.entries, made.values = given, named, {}, []
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        """Does nothing; what was given is held already."""

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, value: Any) -> None:
        self.values.append(value)

    def extend(self, values: Iterable[Any]) -> None:
        self.values.extend(values)


_Steps: Any = pickle._Unpickler
"""Python's own unpickler, of which each step can be replaced; that in C has none."""


class _Unpickler(_Steps):
    """Knows the names of the lists above and no other, and changes nothing but stubs."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Steps.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """A function, a class or a stub.

        Raises:
            CheckpointError: a name that is not on the lists.
        """
        if module == "torch._utils" and name in _REBUILD:
            return _alone(getattr(_utils, name))
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        if module == "torch" and name in ("Size", "device"):
            return _alone(vars(torch)[name])
        if module in ("builtins", "__builtin__") and _OLD.get(name, name) in _PLAIN:
            return getattr(builtins, _OLD.get(name, name))
        if (module, name) == ("_codecs", "encode"):
            return _bytes
        for container in _CONTAINERS:
            if (module, name) == ("collections", container.__name__):
                return container
        if module.split(".")[0] in _STUBBED or (module, name) in _STUBBED_FUNCTIONS:
            return type(name, (_Stub,), {})
        raise _refusal(f"asks for {module}.{name}")

    @property
    def persistent_load(self) -> Any:
        """Hands storages to PyTorch; nothing else, which would compare and write source files."""
        return self._storage

    @persistent_load.setter
    def persistent_load(self, load: Callable[[Any], Any]) -> None:
        self._load_storage = load

    def _storage(self, told: Any) -> Any:
        kind = told[0] if isinstance(told, tuple) and told else told
        if kind not in ("storage", b"storage"):
            raise _refusal(f"asks for an outer {_line(kind)[:40]}")
        return self._load_storage(told)

    def _build(self) -> None:
        """Give a stub its state; what is set on plain containers is left out."""
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, _Stub):
            made.state = state
        elif type(made) not in _CONTAINERS:
            raise _refusal(f"changes {getattr(made, '__name__', type(made).__name__)}")

    dispatch[pickle.BUILD[0]] = _build


def _refusal(deed: str) -> CheckpointError:
    return CheckpointError(
        f"the pickle {_line(deed)}, which could run any code, and is refused; where you trust the "
        "file, load it yourself and save its tensors as safetensors."
    )


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_SAFE: Any = SimpleNamespace(
    __name__="a pickle that runs nothing", Unpickler=_Unpickler, load=_load
)
"""What ``torch.load`` takes in place of the module ``pickle``."""


def _alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """A new function of the same effect, so that the pickle never holds the function itself."""
    return lambda *args: function(*args)


def _bytes(text: Any, encoding: Any) -> bytes:
    """How older pickles write bytes."""
    if encoding != "latin1" or type(text) is not str:
        raise _refusal("asks for an unusual encoding")
    return text.encode("latin1")


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """Stubs as dictionaries, lists and values; omegaconf's nodes as what they hold.

    Args:
        value: what was read; must live as long as ``seen``.
        seen: what values have become already, by identity; filled.
    """
    if not isinstance(value, _Stub | dict | list | tuple | set | frozenset):
        return value.__name__ if isinstance(value, type) else value
    if id(value) not in seen:
        seen[id(value)] = _opened(value, seen)
    return seen[id(value)]


def _opened(value: Any, seen: dict[int, Any]) -> Any:
    if isinstance(value, _Stub):
        return _held(value, seen)
    if isinstance(value, dict):
        return {str(_plain(key, seen)): _plain(entry, seen) for key, entry in value.items()}
    return [_plain(entry, seen) for entry in value]


def _held(stub: _Stub, seen: dict[int, Any]) -> Any:
    state = stub.state[0] if isinstance(stub.state, tuple) and stub.state else stub.state
    if isinstance(state, Mapping) and state:
        held = next((name for name in ("_content", "_val", "_value_") if name in state), None)
        return _plain(state if held is None else state[held], seen)
    if stub.entries or stub.values:
        return _plain(stub.entries or stub.values, seen)
    if not stub.given:
        return {}
    return _plain(stub.given[0] if len(stub.given) == 1 else stub.given, seen)
