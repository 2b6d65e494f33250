"""Reads a pickle of arrays, lists and numbers, and runs nothing that is in it.

A pickle names functions that its reader shall call. Here the few that rebuild arrays of numbers
stand for functions of this file's own; any other name is refused before it is looked up.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from sinkscope.errors import InputError

__all__ = ["read_plain_pickle"]

_HOMES = tuple(
    f"numpy{core}{part}" for core in (".core", "._core") for part in (".multiarray", ".numeric")
)


def read_plain_pickle(path: Path) -> Any:
    """What a pickle of plain things holds: None, numbers, text, lists, tuples, dicts, arrays.

    Raises:
        InputError: the file is damaged, or names anything else.
    """
    try:
        with path.open("rb") as file:
            return _unwrapped(_Plain(file).load())
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # whatever a damaged pickle makes of the unpickler
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path} is no whole pickle ({reason}); write it again.") from error


class _Plain(pickle.Unpickler):
    """Knows how to rebuild arrays of numbers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy", "ndarray"): None,
            ("numpy", "dtype"): _Dtype,
            ("_codecs", "encode"): _encode,
            **{(home, "_reconstruct"): _empty for home in _HOMES},
            **{(home, "_frombuffer"): _from_buffer for home in _HOMES},
            **{(home, "scalar"): _scalar for home in _HOMES},
        }
        if (module, name) in known:
            return known[module, name]
        raise InputError(
            f"it names {module}.{name}, which is no array of numbers, and is not read; save an "
            "array as .npy."
        )


class _Dtype:
    """Bytes of a number, as a pickle tells them: the kind first, then their order."""

    def __init__(self, code: str, *_: Any) -> None:
        self._code = code
        self._order = "|"

    def __setstate__(self, state: Any) -> None:
        self._order: Any = state[1]

    def read(self, content: Any, shape: Any = (-1,), order: str = "C") -> np.ndarray:
        """An array of numbers; objects and records are none."""
        kind = np.dtype(self._code).newbyteorder(self._order)
        if kind.kind not in "biuf":
            raise InputError(f"it holds an array of {kind}, which are no numbers.")
        return np.frombuffer(content, kind).reshape(shape, order="F" if order == "F" else "C")


class _Array:
    """An array whose numbers are still to come."""

    numbers: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        self.numbers = kind.read(content, shape, "F" if fortran else "C")


def _empty(*_: Any) -> _Array:
    return _Array()


def _from_buffer(content: Any, kind: _Dtype, shape: Any, order: str) -> np.ndarray:
    return kind.read(content, shape, order)


def _scalar(kind: _Dtype, content: bytes) -> Any:
    return kind.read(content)[0]


def _encode(text: str, coding: str) -> bytes:
    if coding != "latin1":
        raise InputError(f"it encodes text as {coding!r}, which no array needs.")
    return text.encode("latin1")


def _unwrapped(content: Any) -> Any:
    """Arrays in place of what stood for them."""
    if isinstance(content, _Array):
        return content.numbers
    if isinstance(content, dict):
        return {name: _unwrapped(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_unwrapped(value) for value in content]
    return content
