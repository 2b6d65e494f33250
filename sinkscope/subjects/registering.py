"""register_family: what a user says of a family that no row describes."""

from collections.abc import Callable, Sequence

from sinkscope.errors import InputError, UnknownFamilyError
from sinkscope.layout import TokenLayout
from sinkscope.subjects.families import add_family
from sinkscope.subjects.family import Family
from sinkscope.subjects.multimodal.registry import add_composite, drop_composite
from sinkscope.subjects.multimodal.table import Composite, Given

__all__ = ["LayoutFunction", "register_family"]

LayoutFunction = Callable[[Given], Sequence[TokenLayout]]
"""From what is known of a forward to the layout of each of its samples."""


def register_family(
    model_type: str,
    *,
    blocks: str = "model.layers",
    attention: str = "self_attn",
    attn_out: str | None = None,
    resid_mid: str | None = "post_attention_layernorm",
    mlp_out: str = "mlp",
    gate: str | None = "mlp.gate_proj",
    up: str | None = "mlp.up_proj",
    down: str = "mlp.down_proj",
    layout: LayoutFunction | None = None,
) -> Family:
    """Describe a model family, so that models of it can be loaded. The defaults are Llama's.

    This is the way in for models whose code is not in transformers ("remote code"): a table of
    paths, and for those that take more than text a function that says what their tokens are.

    Check the row on a small model: ``resid_pre + attn_out`` must be ``resid_mid``, and
    ``resid_mid + mlp_out`` must be ``resid_post``.

    Args:
        model_type: ``config.model_type`` of the family's models; a row that has it is replaced,
            and with ``layout`` that of a built-in multimodal family too. Registering it again
            without ``layout`` takes the function back.
        blocks: path of the list of blocks, from the language model.
        attention: path, inside a block, of the module that calls transformers' attention interface.
        attn_out: the module whose output attention adds to the stream; the attention by default.
        resid_mid: the module whose input is the stream between attention and MLP; None where both
            read the same stream (a parallel block).
        mlp_out: the module whose output the MLP adds to the stream.
        gate: the projection that makes the gate, or None.
        up: the projection that the gate multiplies; the same as ``gate`` where it makes both.
        down: the down projection.
        layout: for a model whose forward takes ``input_ids`` and more than text: from what is
            known of a forward (``given.inputs``, its arguments by name, ``given.config`` and
            ``given.processor``) to one ``TokenLayout`` a sample, of its real tokens or of all
            positions. Every forward is checked against its length and its padding.

    Returns:
        The new row.

    Raises:
        UnknownFamilyError: if only one of ``gate`` and ``up`` is given.
        InputError: if ``layout`` cannot be called.

    Example:
        >>> register_family("my_llama", blocks="decoder.blocks", attention="attn").attn_out
        'attn'
    """
    if (gate is None) != (up is None):
        raise UnknownFamilyError(
            f"register_family({model_type!r}): gate is {gate!r} and up is {up!r}; "
            "give both for a gated MLP, or None for both."
        )
    if layout is not None and not callable(layout):
        raise InputError(
            f"register_family({model_type!r}): layout is a {type(layout).__name__}; give a "
            "function from what is known of a forward to one TokenLayout a sample."
        )
    row = Family(
        model_type,
        blocks=blocks,
        attention=attention,
        attn_out=attn_out or attention,
        resid_mid=resid_mid or "",
        mlp_out=mlp_out,
        gate=gate,
        up=up,
        down=down,
        parallel=resid_mid is None,
    )
    add_family(row)
    drop_composite(model_type)
    if layout is not None:
        add_composite(Composite(model_type, model_type, streams={}, layout=layout))
    return row
