"""Reads a fairseq checkpoint without fairseq, and without running anything that is in the file.

A pickle names functions that its reader shall call. Here every name is looked up in a short list:
what rebuilds tensors, a few plain containers, and, in place of configuration classes, inert stubs
that hold what they are given. Any other name is refused before it is looked up.

```python
checkpoint = read_fairseq_checkpoint("large_vox_iter5.pt")
checkpoint.cfg["model"]["encoder_layers"]           # 24
checkpoint.state["encoder.layers.0.fc1.weight"]     # a tensor
```
"""

import builtins
import collections
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, _utils

from sinkscope.errors import CheckpointError

__all__ = ["FairseqCheckpoint", "read_fairseq_checkpoint"]

_REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
_PLAIN = ("bool", "complex", "dict", "float", "frozenset", "int", "list", "object", "set", "str")
_OLD = {"long": "int", "unicode": "str"}
_CONTAINERS = ("OrderedDict", "defaultdict")
_STUBBED = (
    *("argparse", "avhubert", "enum", "examples", "fairseq", "hubert", "hubert_pretraining"),
    *("hydra", "numpy", "omegaconf", "pathlib", "typing"),
)


@dataclass(frozen=True, eq=False)
class FairseqCheckpoint:
    """What a fairseq checkpoint holds for those who only want the model.

    Attributes:
        state: the model's tensors by name.
        cfg: its configuration as plain dictionaries, lists, numbers and words; empty if it has
            none.
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
    _refuse_script(path)
    try:
        content = torch.load(path, map_location="cpu", pickle_module=_SAFE, weights_only=False)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # whatever a damaged pickle makes of the unpickler
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise CheckpointError(
            f"{path} is no whole checkpoint of PyTorch ({reason}); download it again."
        ) from error
    return _checkpoint(content, path)


def _checkpoint(content: Any, path: Path) -> FairseqCheckpoint:
    state = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        found = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else ""
        raise CheckpointError(
            f"{path} is no fairseq checkpoint: it holds {found or type(content).__name__}, and no "
            "'model' with tensors; give the file that fairseq saved."
        )
    told = content.get("cfg") or content.get("args")
    plain = _plain(told)
    plain = plain if isinstance(plain, dict) else {}
    return FairseqCheckpoint(dict(state), plain if "model" in plain else {"model": plain})


class _Stub:
    """Stands for an object of a class that is not loaded; holds what the pickle gave it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.given = args
        self.state: Any = kwargs

    def __new__(cls, *_: Any, **__: Any) -> "_Stub":
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.given = ()
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__.setdefault("items", {})[key] = value

    def append(self, value: Any) -> None:
        self.__dict__.setdefault("values", []).append(value)

    def extend(self, values: Iterable[Any]) -> None:
        self.__dict__.setdefault("values", []).extend(values)


class _Unpickler(pickle.Unpickler):
    """Knows the names of the list above, and no other."""

    def find_class(self, module: str, name: str) -> Any:
        """A function, a class or a stub.

        Raises:
            CheckpointError: a name that is not on the list.
        """
        if module == "torch._utils" and name in _REBUILD:
            return _fresh(getattr(_utils, name))
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) == ("torch", "Size"):
            return _fresh(torch.Size)
        if module in ("builtins", "__builtin__") and _OLD.get(name, name) in _PLAIN:
            return getattr(builtins, _OLD.get(name, name))
        if module == "collections" and name in _CONTAINERS:
            return getattr(collections, name)
        if module.split(".")[0] in _STUBBED:
            return type(name, (_Stub,), {})
        raise CheckpointError(
            f"the pickle asks for {module}.{name}, which could run any code, and is refused; "
            "where you trust the file, load it yourself and save its tensors as safetensors."
        )


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_SAFE: Any = SimpleNamespace(
    __name__="a pickle that runs nothing", Unpickler=_Unpickler, load=_load
)
"""What ``torch.load`` takes in place of the module ``pickle``."""


def _fresh(function: Callable[..., Any]) -> Callable[..., Any]:
    """A new function of the same effect: what a pickle does to it is done to it alone."""
    return lambda *args: function(*args)


def _refuse_script(path: Path) -> None:
    """Refuse TorchScript, which ``torch.load`` would hand to another loader."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = {name.split("/")[-1] for name in archive.namelist()}
        if "constants.pkl" in names:
            raise CheckpointError(f"{path} is a TorchScript program; give a fairseq checkpoint.")


def _plain(value: Any) -> Any:
    """Stubs as dictionaries, lists and values; omegaconf's nodes as what they hold."""
    if isinstance(value, _Stub):
        state = value.state[0] if isinstance(value.state, tuple) else value.state
        if not isinstance(state, Mapping) or (not state and value.given):
            return _plain(value.given[0]) if len(value.given) == 1 else _plain(list(value.given))
        for held in ("_content", "_val", "_value_"):
            if held in state:
                return _plain(state[held])
        return _plain(dict(state))
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(entry) for entry in value]
    return value
