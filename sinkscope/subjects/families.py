"""The table of model families: where in a block each site lies. Plain data, no torch.

A row names modules inside one block of the decoder. Of most of them the *output* is read; of
``resid_mid`` and ``down`` the *input*. ``attn_out`` and ``mlp_out`` name what is **added to the
residual stream**: after Gemma's and OLMo 2's post-norms, times Granite's residual multiplier.

Example:
    >>> family("gemma2").attn_out
    'post_attention_layernorm'
    >>> "llama" in families()
    True
"""

from sinkscope.errors import UnknownFamilyError
from sinkscope.subjects.family import Family
from sinkscope.subjects.family_rows import ROWS

__all__ = ["Family", "families", "families_table", "family", "register_family"]

_TABLE: dict[str, Family] = {row.model_type: row for row in ROWS}


def families() -> tuple[str, ...]:
    """The model types of the table, in alphabetical order."""
    return tuple(sorted(_TABLE))


def family(model_type: str) -> Family:
    """The row of a model type.

    Raises:
        UnknownFamilyError: if there is none.
    """
    if model_type not in _TABLE:
        raise UnknownFamilyError(
            f"The model family {model_type!r} is not in the anatomy table (it holds "
            f"{', '.join(families())}), and guessed sites give plausible wrong numbers; "
            f"describe it with sinkscope.register_family({model_type!r}, ...)."
        )
    return _TABLE[model_type]


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
) -> Family:
    """Describe a model family, so that models of it can be loaded. The defaults are Llama's.

    Check the row on a small model: ``resid_pre + attn_out`` must be ``resid_mid``, and
    ``resid_mid + mlp_out`` must be ``resid_post``.

    Args:
        model_type: ``config.model_type`` of the family's models; a row that has it is replaced.
        blocks: path of the list of blocks, from the language model.
        attention: path, inside a block, of the module that calls transformers' attention interface.
        attn_out: the module whose output attention adds to the stream; the attention by default.
        resid_mid: the module whose input is the stream between attention and MLP; None where both
            read the same stream (a parallel block).
        mlp_out: the module whose output the MLP adds to the stream.
        gate: the projection that makes the gate, or None.
        up: the projection that the gate multiplies; the same as ``gate`` where it makes both.
        down: the down projection.

    Returns:
        The new row.

    Raises:
        UnknownFamilyError: if only one of ``gate`` and ``up`` is given.

    Example:
        >>> register_family("my_llama", blocks="decoder.blocks", attention="attn").attn_out
        'attn'
    """
    if (gate is None) != (up is None):
        raise UnknownFamilyError(
            f"register_family({model_type!r}): gate is {gate!r} and up is {up!r}; "
            "give both for a gated MLP, or None for both."
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
    _TABLE[model_type] = row
    return row


def families_table() -> str:
    """The supported families as a Markdown table, for the README."""
    head = "| `model_type` | residual | attention adds | MLP adds | `mlp_act` enters |"
    rows = [_markdown(row) for row in sorted(ROWS, key=lambda row: row.model_type)]
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def _markdown(row: Family) -> str:
    residual = f"`{row.parallel}`"
    if isinstance(row.parallel, bool):
        residual = "parallel" if row.parallel else "sequential"
    residual += f"; it also {row.also}" if row.also else ""
    residual += f"; some blocks have `{row.mixer}` in place of attention" if row.mixer else ""
    times = f" × `{row.multiplier}`" if row.multiplier else ""
    kind = "ungated" if row.gate is None else "gated, fused" if row.gate == row.up else "gated"
    fused = row.experts is not None and row.experts.module.startswith(row.mlp_out)
    mlp = "experts (not seen by hooks)" if fused else f"`{row.down}` ({kind})"
    added = f"`{row.attn_out}`{times} | `{row.mlp_out}`{times}"
    if row.sites is not None:
        names = ("attn_out", row.attn_out), ("mlp_out", row.mlp_out)
        added = " | ".join(f"`{to}`" if at in row.sites else "not offered" for at, to in names)
        mlp = mlp if "mlp_act" in row.sites else "not offered"
    return f"| {row.model_type} | {residual} | {added} | {mlp} |"
