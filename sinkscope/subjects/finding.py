"""Finds the decoder inside whatever was handed over, and refuses what the table is not right for.

White-list thinking: a model is studied if a row of the table is known to be right for it, and for
no other reason.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn

from sinkscope.errors import UnknownFamilyError
from sinkscope.subjects.compiled import refuse_compiled
from sinkscope.subjects.families import families, family
from sinkscope.subjects.family import Family

__all__ = ["find_decoder", "submodule"]


def submodule(module: nn.Module, path: str) -> nn.Module | None:
    """The module at a dotted path, or None where there is none; "" is the module itself."""
    found: Any = module
    for name in path.split(".") if path else ():
        found = getattr(found, name, None)
    return found if isinstance(found, nn.Module) else None


def find_decoder(model: nn.Module) -> tuple[nn.Module, Family, nn.ModuleList]:
    """The one decoder inside a model, its family's row and its blocks.

    Args:
        model: a causal language model, its bare decoder, a PEFT wrapper, or a larger model that
            holds one of these.

    Raises:
        UnknownFamilyError: if there is no decoder of a known family, there are several, or the
            family's row is not right for it.
    """
    refuse_compiled(model)
    _refuse_flattened(model)
    decoders: dict[int, tuple[nn.Module, Family, nn.ModuleList]] = {}
    for module, row in _described(model):
        path = row.blocks.split(".")
        for start in range(len(path)):
            blocks = submodule(module, ".".join(path[start:]))
            decoder = submodule(module, ".".join(path[start:-1]))
            if isinstance(blocks, nn.ModuleList) and len(blocks) and decoder is not None:
                decoders.setdefault(id(blocks), (decoder, row, blocks))
                break
    if not decoders:
        raise _nothing_found(model)
    if len(decoders) > 1:
        names = ", ".join(type(decoder).__name__ for decoder, _, _ in decoders.values())
        raise UnknownFamilyError(
            f"{type(model).__name__} holds {len(decoders)} decoders ({names}); hand over one."
        )
    decoder, row, blocks = next(iter(decoders.values()))
    _refuse_unlike(decoder, row, blocks)
    return decoder, row, blocks


def _refuse_flattened(model: nn.Module) -> None:
    """FSDP 1 hides blocks behind wrappers and their weights in flat ones; FSDP 2 does neither."""
    for name, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            what = f"its module {name!r}" if name else "it"
            raise UnknownFamilyError(
                f"{type(model).__name__}: {what} is wrapped by FullyShardedDataParallel (FSDP 1), "
                "so its blocks are not where they were; shard with fully_shard (FSDP 2), or hand "
                "over the model as it was before."
            )


def _configured(model: nn.Module) -> Iterator[tuple[nn.Module, Family]]:
    """The modules that carry a configuration of a known family, outermost first."""
    for module in model.modules():
        name = getattr(getattr(module, "config", None), "model_type", None)
        if name in families():
            yield module, family(name)


def _described(model: nn.Module) -> list[tuple[nn.Module, Family]]:
    """Where to look for blocks: if a user described the outermost family, by that row alone."""
    found = list(_configured(model))
    if found and not found[0][1].builtin:
        return [(module, row) for module, row in found if row is found[0][1]]
    return found


def _nothing_found(model: nn.Module) -> UnknownFamilyError:
    for module in model.modules():
        name = getattr(getattr(module, "config", None), "model_type", None)
        if isinstance(name, str) and name and name not in families():
            try:
                family(name)
            except UnknownFamilyError as error:
                return error
        if name:
            return UnknownFamilyError(
                f"{type(module).__name__} says it is a {name!r} but has no list of blocks at "
                f"{family(name).blocks!r}; describe it with sinkscope.register_family."
            )
    return UnknownFamilyError(
        f"{type(model).__name__} holds no decoder: no module in it has a config.model_type; "
        f"hand over a model of transformers ({', '.join(families())}), or give yours a "
        "config.model_type and describe it with sinkscope.register_family."
    )


def _refuse_unlike(decoder: nn.Module, row: Family, blocks: nn.ModuleList) -> None:
    config: Any = decoder.config
    for name, right in row.requires.items():
        found = getattr(config, name, None)
        allowed = right if isinstance(right, tuple) else (right,)
        if found is not None and found not in allowed:
            raise UnknownFamilyError(
                f"This {row.model_type} has {name}={found!r}, which changes a formula; the anatomy "
                f"table is right for {name}={' or '.join(map(repr, allowed))} only."
            )
    code = type(blocks[0]).forward.__module__
    if row.builtin and not code.startswith("transformers.models."):
        raise UnknownFamilyError(
            f"This model says it is a {row.model_type!r}, but its blocks run code of {code!r}, not "
            f"of transformers; give it a config.model_type of its own and describe it with "
            "sinkscope.register_family."
        )
