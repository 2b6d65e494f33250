"""Model folders: ``config.json``, ``model.safetensors``, the tokenizer. Nothing is unpickled."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sinkscope.errors import CheckpointError

__all__ = ["WEIGHTS", "load_weights", "read_weights", "write_weights"]

WEIGHTS = "model.safetensors"
"""The file that holds the weights."""

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def write_weights(model: nn.Module, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Writes a model's state, its floating-point numbers in ``dtype``, into a folder."""
    from safetensors.torch import save_file

    state = {
        name: value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model folder, as they lie on disk.

    Raises:
        CheckpointError: no such file, only pickled weights, or a damaged file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    if not path.is_file():
        pickles = sorted(found.name for mask in _PICKLES for found in folder.glob(mask))
        advice = (
            f"only pickled weights ({', '.join(pickles)}), which are never loaded here; "
            "save the model as safetensors"
            if pickles
            else "name a folder made by save_pretrained"
        )
        raise CheckpointError(f"{path} does not exist: {advice}.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore the file.") from error


def load_weights(model: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Copies weights into a model, in the model's own dtype.

    Args:
        model: what is filled, in place.
        state: tensors by name; every name and shape must be the model's.
        where: the file, for the message.

    Raises:
        CheckpointError: names are missing or unexpected, or shapes differ; all are listed.
    """
    own = model.state_dict()
    shared = own.keys() & state.keys()
    faults = [f"missing {name}" for name in sorted(own.keys() - state.keys())]
    faults += [f"unexpected {name}" for name in sorted(state.keys() - own.keys())]
    faults += [
        f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in sorted(shared)
        if own[name].shape != state[name].shape
    ]
    if faults:
        raise CheckpointError(
            f"{where} does not fit its config.json: {'; '.join(faults)}. "
            "Use the two as they were saved."
        )
    model.load_state_dict(dict(state))
