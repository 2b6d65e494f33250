"""Where in the padded sequence the keys begin that each layer's attention is given."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from sinkscope.errors import InputError
from sinkscope.subjects.anatomy import Anatomy

__all__ = ["key_offsets", "refuse_skipping"]


def key_offsets(anatomy: Anatomy, cache: Any, positions: int) -> list[int]:
    """For each layer, the place in the padded sequence of its first key column.

    A layer that reads another's keys (Gemma 3n and 4 share them) begins where that one begins; a
    layer without attention has no keys, and 0 stands for it.

    Args:
        anatomy: of the model.
        cache: of the forward that begins; None for none.
        positions: how many positions the forward brings.
    """
    if cache is None:
        return [0] * anatomy.n_layers
    stored: dict[Any, int] = {}
    offsets = []
    for layer, module in enumerate(anatomy.attention):
        kind = getattr(module, "layer_type", None)
        if module is None:
            offsets.append(0)
        elif reuses_keys(module):
            offsets.append(stored[kind])
        else:
            index = getattr(module, "layer_idx", layer)
            offsets.append(int(cache.get_mask_sizes(positions, index)[1]))
            stored[kind] = offsets[-1]
    return offsets


def reuses_keys(module: nn.Module | None) -> bool:
    """Whether a layer's attention reads the keys and values of an earlier layer."""
    return bool(getattr(module, "is_kv_shared_layer", False))


def refuse_skipping(anatomy: Anatomy, given: Mapping[str, Any], positions: int) -> None:
    """Refuse a forward whose later blocks see the last tokens only.

    Args:
        anatomy: of the model.
        given: the arguments of its decoder, by name.
        positions: how many positions it brings.

    Raises:
        InputError: it is one.
    """
    kept = given.get("logits_to_keep")
    if not (isinstance(kept, int) and 0 < kept < positions):
        return
    if any(reuses_keys(module) for module in anatomy.attention):
        raise InputError(
            f"The blocks of this {anatomy.family} that reuse keys run on the last {kept} of "
            f"{positions} tokens only (logits_to_keep={kept}, as generate asks for), so there is "
            "nothing to record of the others; record the whole sequence with sinkscope.record, "
            "or call the model (or generate) with logits_to_keep=0."
        )
