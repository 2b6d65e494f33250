"""The table of multimodal families, and who may add to it. Rows are read when first asked for."""

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

from torch import nn

from sinkscope.errors import UnknownFamilyError
from sinkscope.subjects.multimodal.table import Composite

__all__ = ["add_composite", "composite_of", "composites", "find_composite"]

_ROWS = ("qwen_omni", "qwen_vl", "llava_onevision", "video_llama_3", "gemma4")
"""Files of ``rows``; each has ``COMPOSITES``."""

_added: dict[str, Composite] = {}


def composites() -> dict[str, Composite]:
    """Every row by its ``model_type``, in alphabetical order."""
    return dict(sorted((_builtin() | _added).items()))


def composite_of(model_type: str) -> Composite:
    """The row of a model type.

    Raises:
        UnknownFamilyError: if there is none.
    """
    table = composites()
    if model_type not in table:
        raise UnknownFamilyError(
            f"The multimodal family {model_type!r} is not in the table (it holds "
            f"{', '.join(table)}); describe it with sinkscope.register_family."
        )
    return table[model_type]


def add_composite(row: Composite) -> None:
    """Add a row, or replace the one that has its ``model_type``."""
    _added[row.model_type] = row


def find_composite(model: nn.Module) -> nn.Module | None:
    """The outermost module inside a model that is a composite of the table; None for none.

    A wrapper of PEFT, which shows its base model's configuration, is passed through.
    """
    return next(_composites_in(model), None)


def _composites_in(model: nn.Module) -> Iterator[nn.Module]:
    table = composites()
    for module in model.modules():
        own: Any = vars(module).get("config")
        if getattr(own, "model_type", None) in table:
            yield module


@cache
def _builtin() -> dict[str, Composite]:
    found: dict[str, Composite] = {}
    for name in _ROWS:
        rows: tuple[Composite, ...] = import_module(f"{__package__}.rows.{name}").COMPOSITES
        found |= {row.model_type: row for row in rows}
    return found
