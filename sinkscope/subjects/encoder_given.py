"""What an encoder is given: clips, what its processor returned, or one tensor of it."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from sinkscope.avsr.clip import Clip
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.subjects.anatomy import Anatomy
from sinkscope.subjects.encoder_layouts import layouts_of
from sinkscope.subjects.frame_layouts import unknown_frames

__all__ = ["as_features", "convolved", "layouts_of_features", "only_clips", "refuse_others"]


def as_features(name: str, model: Any, data: Any) -> dict[str, Any] | None:
    """The arguments of the model's forward, where the data are such; None for other data.

    Tensors go to where the model is; those of numbers with a fraction, to its dtype.

    Raises:
        InputError: a mapping without a tensor, or without an argument that the forward needs.
    """
    if isinstance(data, Tensor):
        data = {_main_input(model): data}
    if not isinstance(data, Mapping):
        return None
    if not any(isinstance(value, Tensor) for value in data.values()):
        raise InputError(
            f"{name} got a mapping without a tensor; give what its processor returns with "
            "return_tensors='pt'."
        )
    weight = next(model.parameters())
    _refuse_missing(name, model, data)
    absent = {key: None for key in _needed(model) if key not in data}
    return {key: _placed(value, weight) for key, value in (absent | dict(data)).items()}


def layouts_of_features(
    model: nn.Module,
    anatomy: Anatomy,
    features: Mapping[str, Any],
    *,
    stream: str,
    frame_rate: float | int,
) -> tuple[TokenLayout, ...] | None:
    """The layouts of a forward with these features; None where only the encoder itself knows."""
    own = layouts_of(anatomy, features)
    sound = features.get("input_values")
    if own is not None or not isinstance(sound, Tensor) or anatomy.decoder is model:
        return own
    config: Any = getattr(model, "config", None)
    real = torch.ones_like(sound, dtype=torch.bool)
    mask = features.get("attention_mask")
    real = real if mask is None else mask.bool()
    positions = convolved(config, sound.shape[1])
    rows: Bool[Tensor, "sample frame"] = (
        torch.arange(positions) < convolved(config, real.sum(1).cpu())[:, None]
    )
    return tuple(unknown_frames(stream, row.numpy(), frame_rate=frame_rate) for row in rows)


def convolved(config: Any, samples: Any) -> Any:
    """Frames that convolutions without padding make of so many samples of sound.

    Args:
        config: holds ``conv_kernel`` and ``conv_stride``.
        samples: a number, or a tensor of them.

    Example:
        >>> from types import SimpleNamespace
        >>> convolved(SimpleNamespace(conv_kernel=(10, 3), conv_stride=(5, 2)), 100)
        9
    """
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples


def only_clips(name: str, data: Any, others: Sequence[Any]) -> list[Clip]:
    """The clips that were given, and nothing else.

    Raises:
        InputError: if the data is no clip, or one of the other arguments is not None.
    """
    refuse_others(name, others)
    several = list(data) if isinstance(data, list | tuple) else [data]
    if not several or not all(isinstance(clip, Clip) for clip in several):
        raise InputError(
            f"{name} reads clips, not {type(data).__name__}; give a clip or several, as "
            "sinkscope.read_clip makes them."
        )
    return several


def refuse_others(name: str, others: Sequence[Any]) -> None:
    """Refuse token ids and what goes with them.

    Raises:
        InputError: if one of these arguments is not None.
    """
    if any(given is not None for given in others):
        raise InputError(
            f"{name} makes frames, mask and layout from the clip itself, and has no BOS; give "
            "clips alone."
        )


def _main_input(model: Any) -> str:
    """What the tensor of its forward is called that a lone tensor is."""
    names = list(inspect.signature(model.forward).parameters)
    usual = str(getattr(model, "main_input_name", ""))
    return names[0] if names and usual not in names and "kwargs" not in names[:1] else usual


def _needed(model: Any) -> dict[str, bool]:
    """Arguments that its forward has no default for, and whether they may be None."""
    given = inspect.signature(model.forward).parameters.values()
    named = [one for one in given if one.kind is one.POSITIONAL_OR_KEYWORD]
    return {one.name: "None" in str(one.annotation) for one in named if one.default is one.empty}


def _refuse_missing(name: str, model: Any, data: Mapping[str, Any]) -> None:
    missing = [key for key, optional in _needed(model).items() if not optional and key not in data]
    if missing:
        raise InputError(
            f"{name} needs {', '.join(missing)} besides; give what its processor returns, as a "
            "mapping of the arguments of its forward."
        )


def _placed(value: Any, weight: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(weight) if value.is_floating_point() else value.to(weight.device)
