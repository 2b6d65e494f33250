"""The tensors of a released checkpoint. Nothing in the file is run."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sinkscope.errors import CheckpointError

__all__ = ["read_released"]


def read_released(path: Path) -> dict[str, Tensor]:
    """The tensors of a released checkpoint by their published names; they stay on disk.

    Raises:
        CheckpointError: no such file, no checkpoint, or one that holds more than tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is no file; give a released checkpoint (.pth).")
    content = _loaded(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no tensors by name; give a released checkpoint.")
    odd = [str(name) for name, value in content.items() if not _is_plain(value)]
    if odd:
        raise CheckpointError(
            f"{path} holds {', '.join(odd[:3])} beside plain tensors; give a released checkpoint."
        )
    return {str(name).removeprefix("model."): value for name, value in content.items()}


def _loaded(path: Path) -> Any:
    """What is in the file, as far as it is tensors and plain containers."""
    try:
        zipped = zipfile.is_zipfile(path)
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        found = f"it asks for {named[1]}" if named else "it is no pickle of tensors"
        raise CheckpointError(
            f"{path} is no checkpoint of tensors alone ({found}); nothing in it was run, give a "
            "released checkpoint."
        ) from error
    except Exception as error:  # whatever a damaged file makes of the reader
        raise CheckpointError(
            f"{path} is no whole checkpoint of tensors ({_reason(error)}); download it again."
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).partition(". ")[0][:120] or type(error).__name__


def _is_plain(value: object) -> bool:
    if not isinstance(value, Tensor) or value.is_meta or value.is_quantized:
        return False
    return value.layout == torch.strided
