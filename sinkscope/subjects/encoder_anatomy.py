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

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from sinkscope.errors import UnknownFamilyError
from sinkscope.subjects.anatomy import Anatomy
from sinkscope.subjects.family import Family
from sinkscope.subjects.finding import submodule

__all__ = ["encoder_anatomy", "projector_anatomy"]

_PRE_NORM = Family(
    "whisper",
    blocks="layers",
    resid_mid="final_layer_norm",
    mlp_out="fc2",
    gate=None,
    up=None,
    down="fc2",
    causal=False,
    builtin=True,
)
_WAVLM = replace(
    _PRE_NORM,
    model_type="wavlm",
    attention="attention",
    attn_out="attention",
    resid_mid="feed_forward",
    mlp_out="feed_forward",
    down="feed_forward.output_dense",
    mask="attention_mask",
)
_CONVOLUTIONAL = replace(_PRE_NORM, blocks="blocks", sites=("resid_pre", "resid_post"))
_PROJECTOR = replace(
    _PRE_NORM,
    model_type="projector",
    down="2",
    sites=("resid_pre", "mlp_act", "resid_post"),
)

Row = Family | Callable[[Any], Family]
"""A row, or what makes one from the module, where its configuration decides."""


def _avhubert(encoder: Any) -> Family:
    row = replace(_PRE_NORM, model_type="avhubert", mask="mask")
    return row if encoder.norm_first else replace(row, resid_mid="fc1")


_TRANSFORMERS = "transformers.models."
_ROWS: dict[tuple[str, str], Row] = {
    (f"{_TRANSFORMERS}whisper.", "WhisperEncoder"): _PRE_NORM,
    (f"{_TRANSFORMERS}wavlm.", "WavLMEncoder"): _WAVLM,
    (f"{_TRANSFORMERS}wavlm.", "WavLMEncoderStableLayerNorm"): replace(
        _WAVLM, resid_mid="final_layer_norm"
    ),
    ("sinkscope.avsr.avhubert.", "Transformer"): _avhubert,
    ("sinkscope.avsr.encoders", "TinyAudioEncoder"): replace(
        _CONVOLUTIONAL, model_type="tiny-audio"
    ),
    ("sinkscope.avsr.encoders", "TinyVideoEncoder"): replace(
        _CONVOLUTIONAL, model_type="tiny-video"
    ),
}
"""Beginning of the file and name of a class, and how its blocks are built."""


def encoder_anatomy(model: nn.Module) -> Anatomy:
    """The anatomy of the one encoder inside a model.

    Args:
        model: an encoder, or a model that holds one and its front end.

    Raises:
        UnknownFamilyError: if it holds none, or several, or one that is compiled.
    """
    found = [(module, row) for module in model.modules() if (row := _row(module)) is not None]
    if len(found) != 1:
        names = ", ".join(type(module).__name__ for module, _ in found) or "none"
        raise UnknownFamilyError(
            f"{type(model).__name__} must hold one encoder whose anatomy is known ("
            f"{', '.join(name for _, name in _ROWS)}); it holds {names}: hand over one encoder."
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


def _row(module: nn.Module) -> Family | None:
    for kind in type(module).__mro__:
        for (place, name), row in _ROWS.items():
            if kind.__name__ == name and kind.__module__.startswith(place):
                return row if isinstance(row, Family) else row(module)
    return None


def _of_blocks(encoder: nn.Module, row: Family) -> Anatomy:
    blocks = submodule(encoder, row.blocks)
    if not isinstance(blocks, nn.ModuleList) or not len(blocks):
        raise UnknownFamilyError(
            f"{type(encoder).__name__} has no blocks at {row.blocks!r}; hand over a whole encoder."
        )
    if row.sites is not None:
        width = int(getattr(encoder, "width", 0))
        return Anatomy(row.model_type, len(blocks), 0, 0, width, 0, encoder, tuple(blocks), (), row)
    attention: tuple[Any, ...] = tuple(submodule(block, row.attention) for block in blocks)
    heads, query = _heads(attention[0]), attention[0].q_proj
    return Anatomy(
        row.model_type,
        n_layers=len(blocks),
        n_heads=heads,
        n_kv_heads=heads,
        d_model=int(query.in_features),
        d_head=int(query.out_features) // heads,
        decoder=encoder,
        blocks=tuple(blocks),
        attention=attention,
        row=row,
    )


def _heads(attention: Any) -> int:
    return int(attention.num_heads if hasattr(attention, "num_heads") else attention.heads)
