"""Looks into one block, or one configuration, for what a row of the table names."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from sinkscope.errors import UnknownFamilyError
from sinkscope.subjects.family import Family
from sinkscope.subjects.finding import submodule

__all__ = ["attention_in", "first_layer_config", "part_of", "query_width"]


def first_layer_config(config: Any) -> Any:
    """The configuration of the first block: its own where blocks may differ, else the model's."""
    own = getattr(config, "per_layer_config", None)
    return own[0] if own else config


def query_width(attention: Sequence[nn.Module | None], config: Any) -> int:
    """Features of a head's queries: of latent attention, those with and without rotation."""
    latent = next((width for m in attention if (width := getattr(m, "qk_head_dim", None))), None)
    return int(latent or getattr(config, "head_dim", None) or 0)


def attention_in(block: nn.Module, row: Family) -> nn.Module | None:
    """A block's attention; None where the row's other mixer stands in its place."""
    instead = row.mixer is not None and submodule(block, row.mixer) is not None
    if instead and submodule(block, row.attention) is None:
        return None
    return part_of(block, row.attention, row)


def part_of(block: nn.Module, path: str, row: Family) -> nn.Module:
    """The module at a path of a block.

    Raises:
        UnknownFamilyError: if there is none.
    """
    part = submodule(block, path)
    if part is None:
        raise UnknownFamilyError(
            f"A {row.model_type} block ({type(block).__name__}) has no module {path!r}, which its "
            f"row of the anatomy table names; describe this model with sinkscope.register_family."
        )
    return part
