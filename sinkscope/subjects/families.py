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

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sinkscope.errors import UnknownFamilyError

__all__ = ["Family", "families", "families_table", "family", "register_family"]


@dataclass(frozen=True)
class Family:
    """One row of the table. Paths are dotted, inside a block where nothing else is said.

    Attributes:
        model_type: ``config.model_type`` of the decoder.
        blocks: path of the list of blocks, from the language model; its parent is the decoder.
        attention: the module that calls transformers' attention interface.
        attn_out: the module whose output attention adds to the residual stream.
        resid_mid: the module whose input is the stream between attention and MLP.
        mlp_out: the module whose output the MLP adds to the residual stream.
        gate: the module whose output is the gate; None where the MLP has no gate.
        up: the module whose output the gate multiplies; the same as ``gate`` where one projection
            makes both, the gate first.
        down: the down projection, whose input is ``mlp_act``.
        parallel: whether attention and MLP read the same stream (then there is no ``resid_mid``);
            or the field of the configuration that says so.
        multiplier: the attribute of a block by which ``attn_out`` and ``mlp_out`` are multiplied
            before they are added.
        flat: the modules that see samples and tokens on one axis; "" is the block itself.
        requires: fields of the configuration that would change a formula, with the one value that
            this row is right for (also right: the field is absent).
        builtin: whether the row describes the classes of transformers, and of no one else.
        causal: whether a query sees the keys up to itself only; an encoder's queries see all.
        sites: the only sites of its blocks, where it lacks most; None for all.
        cross_out: the module whose output cross-attention adds to the residual stream, before
            ``resid_mid``; "" where there is none.
        mask: of an encoder's forward, the argument that says which frames are real; "" for none.
    """

    model_type: str
    blocks: str = "model.layers"
    attention: str = "self_attn"
    attn_out: str = "self_attn"
    resid_mid: str = "post_attention_layernorm"
    mlp_out: str = "mlp"
    gate: str | None = "mlp.gate_proj"
    up: str | None = "mlp.up_proj"
    down: str = "mlp.down_proj"
    parallel: bool | str = False
    multiplier: str | None = None
    flat: tuple[str, ...] = ()
    requires: Mapping[str, object] = field(default_factory=dict)
    builtin: bool = False
    causal: bool = True
    sites: tuple[str, ...] | None = None
    mask: str = ""
    cross_out: str = ""


_CAUSAL = {"is_causal": True, "is_encoder_decoder": False, "add_cross_attention": False}
_GEMMA = _CAUSAL | {"use_bidirectional_attention": False}

_LLAMA = Family("llama", requires=_CAUSAL, builtin=True)
_EXPERTS = ("gpt_oss", "mixtral", "qwen2_moe", "qwen3_moe")
_LIKE_LLAMA = ("mistral", "qwen2", "qwen2_5_omni_text", "qwen3", "olmo", "smollm3", *_EXPERTS)
_GEMMA2 = replace(
    _LLAMA,
    model_type="gemma2",
    attn_out="post_attention_layernorm",
    resid_mid="pre_feedforward_layernorm",
    mlp_out="post_feedforward_layernorm",
    requires=_GEMMA,
)
_OLMO2 = replace(_GEMMA2, model_type="olmo2", resid_mid="mlp", requires=_CAUSAL)
_GLM = replace(_LLAMA, model_type="glm", gate="mlp.gate_up_proj", up="mlp.gate_up_proj")
_UNGATED = replace(_LLAMA, gate=None, up=None)

_ROWS = (
    _LLAMA,
    *(replace(_LLAMA, model_type=name) for name in _LIKE_LLAMA),
    replace(_LLAMA, model_type="gemma", requires=_GEMMA),
    _GEMMA2,
    replace(_GEMMA2, model_type="gemma3_text"),
    _OLMO2,
    replace(_OLMO2, model_type="olmo3"),
    replace(_OLMO2, model_type="exaone4"),
    replace(_LLAMA, model_type="granite", multiplier="residual_multiplier"),
    _GLM,
    replace(
        _GLM, model_type="glm4", attn_out="post_self_attn_layernorm", mlp_out="post_mlp_layernorm"
    ),
    replace(_GLM, model_type="phi3", attn_out="resid_attn_dropout", mlp_out="resid_mlp_dropout"),
    replace(
        _UNGATED,
        model_type="gpt2",
        blocks="transformer.h",
        attention="attn",
        attn_out="attn",
        resid_mid="ln_2",
        down="mlp.c_proj",
        requires=_CAUSAL | {"reorder_and_upcast_attn": False},
    ),
    replace(
        _UNGATED,
        model_type="gpt_neox",
        blocks="gpt_neox.layers",
        attention="attention",
        attn_out="post_attention_dropout",
        mlp_out="post_mlp_dropout",
        down="mlp.dense_4h_to_h",
        parallel="use_parallel_residual",
    ),
    replace(
        _UNGATED,
        model_type="opt",
        blocks="model.decoder.layers",
        resid_mid="final_layer_norm",
        mlp_out="fc2",
        down="fc2",
        flat=("final_layer_norm", "fc2"),
        requires=_CAUSAL | {"do_layer_norm_before": True},
    ),
    replace(_UNGATED, model_type="phi", down="mlp.fc2", parallel=True),
    replace(_UNGATED, model_type="starcoder2", down="mlp.c_proj"),
    replace(_LLAMA, model_type="stablelm", parallel="use_parallel_residual"),
    replace(_LLAMA, model_type="cohere", parallel=True),
    replace(_LLAMA, model_type="cohere2", parallel=True),
)
_TABLE: dict[str, Family] = {row.model_type: row for row in _ROWS}


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
    rows = [_markdown(row) for row in sorted(_ROWS, key=lambda row: row.model_type)]
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def _markdown(row: Family) -> str:
    residual = f"`{row.parallel}`"
    if isinstance(row.parallel, bool):
        residual = "parallel" if row.parallel else "sequential"
    times = f" × `{row.multiplier}`" if row.multiplier else ""
    kind = "ungated" if row.gate is None else "gated, fused" if row.gate == row.up else "gated"
    experts = row.model_type in _EXPERTS
    mlp = "experts (not seen by hooks)" if experts else f"`{row.down}` ({kind})"
    added = f"`{row.attn_out}`{times} | `{row.mlp_out}`{times}"
    return f"| {row.model_type} | {residual} | {added} | {mlp} |"
