"""What a processor returned, checked and moved to where the model's input goes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sinkscope.errors import InputError
from sinkscope.subjects.given import check_ids
from sinkscope.subjects.multimodal.calls import takes
from sinkscope.subjects.multimodal.table import Composite

__all__ = ["Place", "taken"]

SIDE = frozenset(
    (
        *("video_metadata", "use_audio_in_video", "second_per_grid_ts", "video_second_per_grid"),
        *("num_audio_tokens", "num_image_tokens", "num_video_tokens", "batch_num_images"),
        *("num_soft_tokens_per_image", "num_soft_tokens_per_video", "num_crops"),
        *("audio_embed_sizes", "audio_attention_mask", "mm_token_type_ids", "token_type_ids"),
        *("special_tokens_mask", "offset_mapping", "text_replacement_offsets", "length"),
    )
)
"""What processors return besides, and a model's forward need not take."""

RECORDING = frozenset(
    (
        *("use_cache", "past_key_values", "cache_position", "logits_to_keep", "return_dict"),
        *("output_attentions", "output_hidden_states", "output_router_logits", "labels"),
        "inputs_embeds",
    )
)
"""What a recording decides by itself, or cannot go with ids."""


@dataclass(frozen=True)
class Place:
    """Where input goes, and in which dtype features are."""

    device: torch.device
    dtype: torch.dtype


def taken(
    data: Mapping[str, Any],
    *,
    name: str,
    module: nn.Module,
    composite: Composite,
    processor: Any | None,
    place: Place,
) -> dict[str, Any]:
    """The arguments of a forward from what a processor returned, without those that are None.

    Only the features of a stream take the model's dtype; times and masks stay as they are. Of a
    family that a user registered with a layout function, numbers on two axes or more are features.

    Raises:
        InputError: ids that are no (sample, token); a mask of another shape; names that neither
            the forward nor the family knows; what a recording decides by itself.
    """
    given = {str(key): value for key, value in data.items() if value is not None}
    if not isinstance(given.get("input_ids"), Tensor):
        raise InputError(
            f"{name}: the mapping holds no tensor input_ids (it holds "
            f"{', '.join(map(str, data)) or 'nothing'}); give what the model's processor "
            'returns with return_tensors="pt".'
        )
    _refuse_names(given, name, module, composite, processor)
    _refuse_shapes(given, name)
    features = {stream.features for stream in composite.streams.values()}
    moved = {}
    for key, value in given.items():
        value = _tensor(value) if takes(module, key) else value
        if isinstance(value, Tensor):
            value = value.to(place.device)
            own = key in features if composite.layout is None else value.ndim > 1
            value = value.to(place.dtype) if own and value.is_floating_point() else value
        moved[key] = value
    return moved


def _refuse_names(
    given: Mapping[str, Any],
    name: str,
    module: nn.Module,
    composite: Composite,
    processor: Any | None,
) -> None:
    decided = sorted(RECORDING & set(given))
    if decided:
        raise InputError(
            f"{name}: the mapping holds {', '.join(decided)}, which a recording decides by itself; "
            "leave it out, or call the model yourself inside sinkscope.probe."
        )
    if composite.layout is not None:
        return
    theirs = getattr(processor, "model_input_names", None) or ()
    unknown = [key for key in given if not takes(module, key) and key not in SIDE | set(theirs)]
    if unknown:
        raise InputError(
            f"{name}: {type(module).__name__} takes no argument {', '.join(map(repr, unknown))}, "
            "and nothing is known to read it; check the spelling, or leave it out."
        )


def _refuse_shapes(given: Mapping[str, Any], name: str) -> None:
    ids, mask = given["input_ids"], given.get("attention_mask")
    if ids.ndim != 2:
        raise InputError(
            f"{name}: input_ids in the mapping have shape {tuple(ids.shape)}; give (sample, token)."
        )
    check_ids(ids, None)
    if isinstance(mask, Tensor) and mask.ndim != 4 and mask.shape != ids.shape:
        raise InputError(
            f"{name}: attention_mask has shape {tuple(mask.shape)}, but input_ids "
            f"{tuple(ids.shape)} (sample, token); give one entry for each position."
        )


def _tensor(value: Any) -> Any:
    """Arrays, and lists of whole numbers such as grids, as tensors; everything else as it is."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.as_tensor(value)
    if isinstance(value, list | tuple) and value:
        try:
            found = np.asarray(value)
        except ValueError:
            return value
        return torch.as_tensor(found) if found.dtype.kind in "biu" else value
    return value
