"""The table of multimodal families, and who may add to it. Rows are read when first asked for."""

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

from torch import nn

from sinkscope.errors import UnknownFamilyError
from sinkscope.subjects.multimodal.table import Composite

__all__ = [
    "ROWS",
    "add_composite",
    "class_of",
    "composite_config",
    "composite_of",
    "composites",
    "drop_composite",
    "find_composite",
    "refuse_unlisted",
    "refuse_unlisted_config",
]

ROWS = (
    "gemma3n",
    "gemma4",
    "granite_speech",
    "llava_onevision",
    "phi4_multimodal",
    "qwen_audio",
    "qwen_omni",
    "qwen_vl",
    "video_llama_3",
    "windowed_sound",
)
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


def drop_composite(model_type: str) -> None:
    """Take back the row that a user added; a built-in one that it replaced holds again."""
    _added.pop(model_type, None)


def find_composite(model: nn.Module) -> nn.Module | None:
    """The outermost module inside a model that is a composite of the table; None for none.

    A wrapper of PEFT, which shows its base model's configuration, is passed through.
    """
    return next(_composites_in(model), None)


def composite_config(config: Any) -> Any | None:
    """The configuration of a composite of the table, at the top or one level down; else None."""
    table = composites()
    parts = [getattr(config, name, None) for name in getattr(config, "sub_configs", None) or ()]
    return next(
        (one for one in (config, *parts) if getattr(one, "model_type", None) in table), None
    )


def class_of(config: Any) -> Any:
    """The class of transformers whose forward takes what a composite's row names.

    Raises:
        UnknownFamilyError: if transformers has none for this configuration.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    listed = MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.get(config.model_type)
    stem = type(config).__name__.removesuffix("Config")
    for name in (listed, f"{stem}ForConditionalGeneration", *(config.architectures or ())):
        if isinstance(name, str) and hasattr(transformers, name):
            return getattr(transformers, name)
    raise UnknownFamilyError(
        f"transformers has no class that runs a {config.model_type!r} on its own; load the model "
        "yourself and hand it over."
    )


def refuse_unlisted(model: nn.Module) -> None:
    """Refuse a multimodal model that no row describes, before its LLM is taken for the whole.

    Raises:
        UnknownFamilyError: if the outermost configuration holds that of a text model and more.
    """
    owner = next((module for module in model.modules() if "config" in vars(module)), None)
    if owner is not None:
        refuse_unlisted_config(vars(owner)["config"], type(owner).__name__)


def refuse_unlisted_config(config: Any, name: str) -> None:
    """Refuse the configuration of a multimodal model that no row describes.

    Args:
        config: the outermost one of a model.
        name: what the model is called in the refusal.

    Raises:
        UnknownFamilyError: if it holds that of a text model and more.
    """
    parts = set(getattr(config, "sub_configs", None) or ())
    if "text_config" in parts and len(parts) > 1:
        raise UnknownFamilyError(
            f"{name} ({config.model_type!r}) is a multimodal model that no row describes (there "
            f"are {', '.join(composites())}), so what its tokens are is not known; hand over its "
            "language model alone, or describe it with sinkscope.register_family(..., layout=...)."
        )


def _composites_in(model: nn.Module) -> Iterator[nn.Module]:
    table = composites()
    for module in model.modules():
        own: Any = vars(module).get("config")
        if getattr(own, "model_type", None) in table:
            yield module


@cache
def _builtin() -> dict[str, Composite]:
    found: dict[str, Composite] = {}
    for name in ROWS:
        rows: tuple[Composite, ...] = import_module(f"{__package__}.rows.{name}").COMPOSITES
        found |= {row.model_type: row for row in rows}
    return found
