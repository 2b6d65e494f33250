"""Layouts of an encoder's tokens, and which of them are real, from what the encoder receives.

They are used where nobody says what the tokens are: a forward of the caller's own, or features that
a processor made. Frames have seconds; patches have a row and a column, in the descriptors of those
names. A class token is a delimiter without either: it is made of no part of the input. It is no
BOS, but it comes first, so that it is the reference.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sinkscope.errors import InputError
from sinkscope.glossary import APPENDED
from sinkscope.layout import TokenLayout
from sinkscope.subjects.anatomy import Anatomy
from sinkscope.subjects.frame_layouts import unknown_frames
from sinkscope.subjects.layouts import pad_layout
from sinkscope.subjects.packed_layouts import (
    MEL_RATE,
    packed_audio_layout,
    packed_vision_layout,
)

__all__ = ["class_and_frames", "frame_mask", "layouts_of", "patches"]

CLASS_LABEL = "[class]"

LONGEST = 500
"""Frames above which Phi-4's audio encoder runs over pieces of that length."""

PE_SAMPLE_RATE = 48_000
"""Samples a second that PE's audio encoders hear, by `PeAudioFeatureExtractor`.

The configuration of the codec inside gives the codec's usual rate, which is another one.
"""


def layouts_of(anatomy: Anatomy, given: Mapping[str, Any]) -> tuple[TokenLayout, ...] | None:
    """The layouts of an encoder's forward, by its row; None where its tokens are plain frames.

    Args:
        anatomy: of the encoder.
        given: the arguments of the module that runs its blocks, by name.

    Raises:
        InputError: if they do not say how many tokens there are.
    """
    make = _LAYOUTS.get(getattr(anatomy.row, "layout", ""))
    return None if make is None else make(anatomy, given)


def frame_mask(anatomy: Anatomy, given: Mapping[str, Any]) -> Tensor | None:
    """Which tokens of an encoder's forward are real: ``(sample, frame)``; None for all.

    Args:
        anatomy: of the encoder.
        given: the arguments of the module that runs its blocks, by name.
    """
    mask = given.get(getattr(anatomy.row, "mask", ""))
    if mask is None:
        return None
    thin = _MASKS.get(anatomy.family)
    return mask.bool() if thin is None else thin(anatomy.decoder, mask)


def patches(
    rows: int, columns: int, *, has_class: bool, seconds: np.ndarray | None = None
) -> TokenLayout:
    """The layout of one image's patches, row by row, called r0c0, r0c1 ...

    Args:
        rows: patches from top to bottom.
        columns: patches from left to right.
        has_class: whether a class token comes first.
        seconds: start and end of what the image shows, where it is a frame of a clip.

    Example:
        >>> layout = patches(1, 2, has_class=True)
        >>> layout.segments, layout.labels, layout.descriptors["column"].tolist()
        (('delimiter', 'image', 'image'), ('[class]', 'r0c0', 'r0c1'), [nan, 0.0, 1.0])
    """
    row, column = (place.reshape(-1) for place in np.indices((rows, columns)))
    labels = [f"r{i}c{j}" for i, j in zip(row, column, strict=True)]
    layout = _with_class(["image"] * len(labels), labels, has_class=has_class)
    blank = [np.full(1, np.nan)] if has_class else []
    descriptors = {
        "row": np.concatenate([*blank, row.astype(float)]),
        "column": np.concatenate([*blank, column.astype(float)]),
    }
    times = layout.seconds.copy()
    if seconds is not None:
        times[int(has_class) :] = seconds
    return TokenLayout.of(layout.segments, layout.labels, seconds=times, descriptors=descriptors)


def class_and_frames(stream: str, frames: int, *, frame_rate: float | int | None) -> TokenLayout:
    """The layout of a class token and frames f0, f1 ...; without a rate they have no seconds."""
    layout = _with_class([stream] * frames, [f"f{i}" for i in range(frames)], has_class=True)
    if frame_rate is None:
        return layout
    edges = np.arange(frames + 1, dtype=np.float64) / frame_rate
    seconds = np.concatenate([[[np.nan, np.nan]], np.stack([edges[:-1], edges[1:]], axis=1)])
    return TokenLayout.of(layout.segments, layout.labels, seconds=seconds)


def _with_class(segments: list[str], labels: list[str], *, has_class: bool) -> TokenLayout:
    front = ([], []) if not has_class else (["delimiter"], [CLASS_LABEL])
    return TokenLayout.of([*front[0], *segments], [*front[1], *labels])


def _images(anatomy: Anatomy, given: Mapping[str, Any]) -> tuple[TokenLayout, ...]:
    pixels = _tensor(anatomy, given, "pixel_values", axes=4)
    side = anatomy.config.patch_size
    high, wide = side if isinstance(side, list | tuple) else (side, side)
    rows, columns = pixels.shape[2] // high, pixels.shape[3] // wide
    has_class = getattr(anatomy.row, "layout", "") == "class_and_patches"
    return (patches(rows, columns, has_class=has_class),) * len(pixels)


def _pe(anatomy: Anatomy, given: Mapping[str, Any]) -> tuple[TokenLayout, ...]:
    rate, stream = None, {"pe_audio": "audio", "pe_video": "video"}.get(anatomy.family)
    if anatomy.family == "pe_video":
        pixels = _tensor(anatomy, given, "pixel_values_videos", axes=5)
        samples, frames = pixels.shape[:2]
    else:
        sound = _tensor(anatomy, given, "input_values", axes=3)
        coder = _sound_coder(anatomy.decoder)
        samples, frames = len(sound), -(-sound.shape[2] // int(coder.hop_length))
        rate = PE_SAMPLE_RATE / coder.hop_length
    layout = class_and_frames(stream or "audiovisual", frames, frame_rate=rate)
    mask = frame_mask(anatomy, given)
    real = np.ones((samples, frames + 1), bool) if mask is None else mask.cpu().numpy()
    return tuple(_masked(layout, row) for row in real)


def _subsampled(anatomy: Anatomy, given: Mapping[str, Any]) -> tuple[TokenLayout, ...]:
    name, step = _STEPS[anatomy.family]
    mel = _tensor(anatomy, given, name, axes=3)
    frames = -(-mel.shape[1] // step)
    mask = frame_mask(anatomy, given)
    real = np.ones((len(mel), frames), bool) if mask is None else mask.cpu().numpy()
    return tuple(unknown_frames("audio", row, frame_rate=MEL_RATE / step) for row in real)


def _halved_mel(anatomy: Anatomy, given: Mapping[str, Any]) -> tuple[TokenLayout, ...]:
    """Bands by log-mel frames, of which two make a frame; no mask."""
    mel = _tensor(anatomy, given, "input_features", axes=3)
    real = np.ones((mel.shape[2] + 1) // 2, bool)
    return (unknown_frames("audio", real, frame_rate=MEL_RATE / 2),) * len(mel)


def _pieces(anatomy: Anatomy, given: Mapping[str, Any]) -> tuple[TokenLayout, ...]:
    """Phi-4's frames: above ``LONGEST`` it runs over pieces. It hears what its mask calls padding.

    Frames after the sound's end, and what fills the last piece up, are ``appended_silence``.
    """
    name, step = _STEPS[anatomy.family]
    mel, mask = _tensor(anatomy, given, name, axes=3), given.get("mask")
    frames = -(-mel.shape[1] // step)
    lengths = [mel.shape[1]] * len(mel) if mask is None else mask.sum(1).tolist()
    pieces = -(-frames // LONGEST)
    count = frames if pieces == 1 else LONGEST
    found = []
    for length in lengths:
        sounding = -(-int(length) // step)
        for first in range(0, count * pieces, count):
            own = max(0, min(count, sounding - first))
            edges = (first + np.arange(count + 1)) * step / MEL_RATE
            found.append(
                TokenLayout.of(
                    ["audio"] * own + [APPENDED] * (count - own),
                    [f"f{first + i}" for i in range(count)],
                    seconds=np.stack([edges[:-1], edges[1:]], axis=1),
                )
            )
    return tuple(found)


def _masked(layout: TokenLayout, real: Bool[np.ndarray, " token"]) -> TokenLayout:
    return pad_layout(layout.take(np.flatnonzero(real)), real)


def _packed_audio(anatomy: Anatomy, given: Mapping[str, Any]) -> tuple[TokenLayout, ...]:
    encoder: Any = anatomy.decoder
    if anatomy.family == "qwen3_asr":
        lengths = _tensor(anatomy, given, "input_features_mask", axes=2).sum(-1)
    else:
        lengths = _tensor(anatomy, given, "feature_lens", axes=1)
    halvings = 1 if anatomy.family == "qwen2_5_omni_audio" else 3
    chunk = 2 * int(encoder.config.n_window)
    return (packed_audio_layout(lengths.tolist(), chunk=chunk, halvings=halvings),)


def _packed_vision(anatomy: Anatomy, given: Mapping[str, Any]) -> tuple[TokenLayout, ...]:
    config: Any = anatomy.config
    grids = _whole(_tensor(anatomy, given, "grid_thw", axes=2))
    if anatomy.family == "video_llama_3_vision":
        merges = _tensor(anatomy, given, "merge_sizes", axes=1).tolist()
    else:
        merges = [int(config.spatial_merge_size)] * len(grids)
    window = None
    if hasattr(anatomy.decoder, "window_size"):
        window = int(config.window_size) // int(config.patch_size) // merges[0]
    order = given.get("window_index")
    return (
        packed_vision_layout(
            grids, merges, window=window, order=None if order is None else _whole(order)
        ),
    )


def _whole(tensor: Tensor) -> Int[np.ndarray, "..."]:
    return tensor.cpu().numpy().astype(np.int64)


def _tensor(anatomy: Anatomy, given: Mapping[str, Any], name: str, *, axes: int) -> Tensor:
    found = given.get(name)
    if not isinstance(found, Tensor) or found.ndim != axes:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"{anatomy.family} was called with {name} of {shape}; give a tensor of {axes} axes, "
            "as its processor makes it."
        )
    return found


def _sound_coder(encoder: Any) -> Any:
    """The configuration of the codec that makes the sound's frames."""
    while not hasattr(encoder.embedder, "dac_encoder"):
        encoder = encoder.embedder.audio_encoder
    return encoder.config.dac_config


def _pe_mask(encoder: Any, mask: Bool[Tensor, "sample samples"]) -> Bool[Tensor, "sample frame"]:
    """One entry for the class token, which is as the first frame is, and one a frame."""
    if type(encoder).__name__ != "PeVideoEncoder":
        mask = mask[:, :: int(_sound_coder(encoder).hop_length)]
    return torch.cat([mask[:, :1], mask], dim=1).bool()


def _halved(encoder: Any, mask: Tensor) -> Bool[Tensor, "sample frame"]:
    """From log-mel frames to frames: the second convolution takes two by two."""
    frames = (mask.shape[1] - 1) // 2 + 1
    lengths = (mask.sum(1) - 1) // 2 + 1
    return torch.arange(frames, device=mask.device) < lengths[:, None]


def _key_padding(encoder: Any, mask: Tensor) -> Bool[Tensor, "sample frame"]:
    """From what is added to the scores: frames that no query sees are padding."""
    if mask.ndim != 4:
        raise InputError(
            f"{type(encoder).__name__} was called with an attention_mask of {tuple(mask.shape)}; "
            "it adds one of (sample, 1, query, key) to the scores, as its model makes it."
        )
    return mask[:, 0].bool().any(1) if mask.dtype == torch.bool else (mask[:, 0] == 0).any(1)


def _thin_gemma3n(encoder: Any, mask: Tensor) -> Bool[Tensor, "sample frame"]:
    """It is true at padding, and taken where a frame's log-mel frames begin."""
    return ~mask.bool()[:, :: _STEPS["gemma3n_audio"][1]]


def _thin_gemma4(encoder: Any, mask: Tensor) -> Bool[Tensor, "sample frame"]:
    return mask.bool()[:, :: _STEPS["gemma4_audio"][1]]


_STEPS = {
    "phi4_multimodal_audio": ("hidden_states", 8),
    "gemma3n_audio": ("audio_mel", 4),
    "gemma4_audio": ("input_features", 4),
}
"""Where convolutions shorten the sound: its argument, and log-mel frames of a frame."""

_Layouts = Callable[[Anatomy, Mapping[str, Any]], tuple[TokenLayout, ...]]
_LAYOUTS: dict[str, _Layouts] = {
    "class_and_patches": _images,
    "patches": _images,
    "class_and_frames": _pe,
    "packed_audio": _packed_audio,
    "packed_vision": _packed_vision,
    "subsampled": _subsampled,
    "halved_mel": _halved_mel,
    "pieces": _pieces,
}
_MASKS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "pe_audio": _pe_mask,
    "pe_video": _pe_mask,
    "pe_audio_video": _pe_mask,
    "audioflamingo3": _halved,
    "phi4_multimodal_vision": lambda _, mask: mask.flatten(1).bool(),
    "qwen2_audio": _key_padding,
    "gemma3n_audio": _thin_gemma3n,
    "gemma4_audio": _thin_gemma4,
}
