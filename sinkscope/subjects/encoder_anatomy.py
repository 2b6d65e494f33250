"""Anatomy of encoders and projectors: what `anatomy` is for decoders. Depends on the family table.

An encoder's blocks see all frames in both directions. Its sites mean what they mean in a decoder::

    pre-norm    resid_mid = resid_pre + attn_out          resid_post = resid_mid + mlp_out
    post-norm   resid_mid = norm(resid_pre + attn_out)    resid_post = norm(resid_mid + mlp_out)

In both, ``resid_pre`` is what enters a block, ``resid_mid`` what its MLP reads and ``resid_post``
what leaves it, so that ``resid_post`` of a block is ``resid_pre`` of the next. (Whisper in float16
also cuts what leaves a block at ± 64,504.) A projector is one block without attention:
``resid_pre`` is what enters it, ``mlp_act`` its hidden layer after the activation function,
``resid_post`` what the LLM receives.

Example:
    >>> from transformers import WhisperConfig
    >>> from transformers.models.whisper.modeling_whisper import WhisperEncoder
    >>> encoder = WhisperEncoder(WhisperConfig(d_model=8, encoder_layers=1, encoder_ffn_dim=12,
    ...     encoder_attention_heads=2, max_source_positions=10))
    >>> anatomy = encoder_anatomy(encoder)
    >>> anatomy.family, anatomy.n_heads, anatomy.causal
    ('whisper', 2, False)
"""

from dataclasses import replace
from typing import Any

from torch import nn

from sinkscope.errors import UnknownFamilyError
from sinkscope.subjects.anatomy import Anatomy
from sinkscope.subjects.encoder_rows import EncoderRow, encoder_rows
from sinkscope.subjects.finding import submodule

__all__ = ["encoder_anatomy", "encoder_row", "projector_anatomy"]

_PROJECTOR = EncoderRow(
    "projector", down="2", sites=("resid_pre", "mlp_act", "resid_post"), maps=False
)
_KNOWN_CODE = ("transformers.models.", "sinkscope.avsr.")
_FIRST_PROJECTIONS = ("q_proj", "q", "qkv")


def encoder_anatomy(model: nn.Module) -> Anatomy:
    """The anatomy of the one encoder inside a model.

    Args:
        model: an encoder, which may run others before it, or a model that holds one and its front
            end.

    Raises:
        UnknownFamilyError: if it holds none, or several, or one that is compiled.
    """
    own = encoder_row(model)
    found = [(model, own)] if own is not None else _outermost(model)
    if len(found) != 1:
        names = ", ".join(type(module).__name__ for module, _ in found) or "none"
        raise UnknownFamilyError(
            f"{type(model).__name__} must hold one encoder whose anatomy is known ("
            f"{', '.join(name for _, name in encoder_rows())}); it holds {names}: hand over one "
            "encoder."
        )
    encoder, row = found[0]
    if any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules()):
        raise UnknownFamilyError(
            f"{type(model).__name__} is compiled, so hooks would be skipped or recompile it; hand "
            "over the model as it was before torch.compile."
        )
    return _of_blocks(encoder, row)


def projector_anatomy(projector: nn.Sequential) -> Anatomy:
    """The anatomy of a projector (linear, activation function, linear, perhaps a norm)."""
    first: Any = projector[0]
    width = int(first.in_features)
    return Anatomy("projector", 1, 0, 0, width, 0, projector, (projector,), (), _PROJECTOR)


def encoder_row(module: nn.Module) -> EncoderRow | None:
    """The row of a module's class, or of what it is derived from; None where there is none."""
    for kind in type(module).__mro__:
        for (place, name), row in encoder_rows().items():
            if kind.__name__ == name and kind.__module__.startswith(place):
                return _as_built(module, row)
    return None


def _outermost(model: nn.Module) -> list[tuple[nn.Module, EncoderRow]]:
    """The encoders inside a model; of one that runs others before it, that one alone."""
    found: list[tuple[nn.Module, EncoderRow]] = []
    inside: set[int] = set()
    for module in model.modules():
        row = None if id(module) in inside else encoder_row(module)
        if row is not None:
            found.append((module, row))
            inside |= {id(part) for part in module.modules()}
    return found


def _as_built(module: Any, row: EncoderRow) -> EncoderRow:
    """The row for what the module's own settings make of it."""
    if row.model_type == "avhubert" and not module.norm_first:
        return replace(row, resid_mid="fc1")
    return row


def _of_blocks(encoder: nn.Module, row: EncoderRow) -> Anatomy:
    blocks = submodule(encoder, row.blocks)
    if not isinstance(blocks, nn.ModuleList) or not len(blocks):
        raise UnknownFamilyError(
            f"{type(encoder).__name__} has no blocks at {row.blocks!r}; hand over a whole encoder."
        )
    _refuse_unlike(encoder, row, blocks[0])
    if row.sites is not None and not row.maps:
        width = _width(encoder)
        return Anatomy(row.model_type, len(blocks), 0, 0, width, 0, encoder, tuple(blocks), (), row)
    attention: tuple[Any, ...] = tuple(submodule(block, row.attention) for block in blocks)
    first = attention[0]
    heads, kv_heads, d_model, d_head = _sizes(first)
    return Anatomy(
        row.model_type,
        n_layers=len(blocks),
        n_heads=heads,
        n_kv_heads=kv_heads,
        d_model=d_model,
        d_head=d_head,
        decoder=encoder,
        blocks=tuple(blocks),
        attention=attention,
        row=row,
    )


def _refuse_unlike(encoder: Any, row: EncoderRow, block: nn.Module) -> None:
    config = getattr(encoder, "config", None)
    for name, right in row.requires.items():
        found = getattr(config, name, None)
        if found is not None and found != right:
            raise UnknownFamilyError(
                f"This {row.model_type} has {name}={found!r}, which changes a formula; its row is "
                f"right for {name}={right!r} only."
            )
    code = type(block).forward.__module__
    if not code.startswith(_KNOWN_CODE):
        raise UnknownFamilyError(
            f"{type(encoder).__name__} is a known encoder, but its blocks run code of {code!r}, "
            "which may do anything; hand over an encoder of transformers as it is."
        )


def _width(encoder: Any) -> int:
    """Features of the stream of blocks whose attention is not read."""
    config = getattr(encoder, "config", None)
    owners = ((encoder, "width"), (config, "hidden_size"), (config, "hidden_dim"))
    return next((int(getattr(owner, name)) for owner, name in owners if hasattr(owner, name)), 0)


def _sizes(attention: Any) -> tuple[int, int, int, int]:
    """Query heads, key-value heads, features of the stream and of a head."""
    config = getattr(attention, "config", None)
    owners = [(attention, name) for name in ("num_heads", "heads", "num_attention_heads")]
    owners.append((config, "num_attention_heads"))
    heads = next(int(getattr(owner, name)) for owner, name in owners if hasattr(owner, name))
    query = next(
        getattr(attention, name) for name in _FIRST_PROJECTIONS if hasattr(attention, name)
    )
    fused = 3 if hasattr(attention, "qkv") else 1
    d_head = int(query.out_features) // fused // heads
    key = getattr(attention, "k_proj", None)
    kv_heads = heads if key is None else int(key.out_features) // d_head
    return heads, kv_heads, int(query.in_features), d_head
