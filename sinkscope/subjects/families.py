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

__all__ = ["Family", "add_family", "families", "families_table", "family"]

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


def add_family(row: Family) -> None:
    """Add a row, or replace the one that has its ``model_type``."""
    _TABLE[row.model_type] = row


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
