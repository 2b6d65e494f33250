"""The words of sinkscope, as code: sites, dims and segments. Imports nothing.

Every table, axis, array and error message uses these words and no others.

Example:
    >>> SITES["mlp_out"].transformer_lens
    'blocks.{layer}.hook_mlp_out'
    >>> paper_layer(1)
    2
"""

from dataclasses import dataclass

__all__ = [
    "APPENDED",
    "BOS",
    "DIMS",
    "PADDING",
    "SEGMENTS",
    "SITES",
    "TABLE_COLUMNS",
    "Site",
    "paper_layer",
]


@dataclass(frozen=True)
class Site:
    """A place in a block where a probe can read.

    Attributes:
        meaning: what is read there, in words.
        dims: the axes of one layer's value, in glossary words.
        transformer_lens: the name of the same place in TransformerLens, or "" where it has none.
    """

    meaning: str
    dims: tuple[str, ...]
    transformer_lens: str


_STREAM = ("sample", "token", "feature")
_NEURONS = ("sample", "token", "neuron")

SITES: dict[str, Site] = {
    "resid_pre": Site(
        "residual stream entering the block", _STREAM, "blocks.{layer}.hook_resid_pre"
    ),
    "resid_mid": Site(
        "residual stream between attention and MLP (absent in parallel blocks)",
        _STREAM,
        "blocks.{layer}.hook_resid_mid",
    ),
    "resid_post": Site(
        "residual stream leaving the block, before the final norm",
        _STREAM,
        "blocks.{layer}.hook_resid_post",
    ),
    "attn_out": Site(
        "what attention adds to the residual stream", _STREAM, "blocks.{layer}.hook_attn_out"
    ),
    "cross_out": Site(
        "what cross-attention to an encoder's frames adds to the residual stream, between attn_out "
        "and mlp_out (absent in models without)",
        _STREAM,
        "",
    ),
    "mlp_out": Site(
        "what the MLP adds to the residual stream", _STREAM, "blocks.{layer}.hook_mlp_out"
    ),
    "mlp_gate": Site(
        "gate before its activation function (absent in ungated MLPs)",
        _NEURONS,
        "blocks.{layer}.mlp.hook_pre",
    ),
    "mlp_up": Site(
        "what the gate multiplies (absent in ungated MLPs)",
        _NEURONS,
        "blocks.{layer}.mlp.hook_pre_linear",
    ),
    "mlp_act": Site("input of the down projection", _NEURONS, "blocks.{layer}.mlp.hook_post"),
    "router": Site(
        "probabilities of a mixture's router over its routed experts, before any is chosen",
        ("sample", "token", "expert"),
        "",
    ),
    "expert_gates": Site(
        "what every routed expert of a mixture is multiplied by; 0 for those that were not chosen",
        ("sample", "token", "expert"),
        "",
    ),
    "expert_out": Site(
        "what a mixture of experts adds to the residual stream: a part of attn_out or mlp_out, or "
        "apart from both where the mixture is beside the whole block",
        _STREAM,
        "",
    ),
    "q": Site(
        "queries as they enter attention, after rotary embedding and norms",
        ("sample", "head", "token", "feature"),
        "blocks.{layer}.attn.hook_rot_q",
    ),
    "k": Site(
        "keys as they enter attention, after rotary embedding and norms",
        ("sample", "kv_head", "token", "feature"),
        "blocks.{layer}.attn.hook_rot_k",
    ),
    "v": Site(
        "values as they enter attention",
        ("sample", "kv_head", "token", "feature"),
        "blocks.{layer}.attn.hook_v",
    ),
    "z": Site(
        "attention-weighted values, before the output projection",
        ("sample", "head", "token", "feature"),
        "blocks.{layer}.attn.hook_z",
    ),
    "pattern": Site(
        "attention weights: each row a query, each column a key",
        ("sample", "head", "query", "key"),
        "blocks.{layer}.attn.hook_pattern",
    ),
}
"""The places where a probe can read, and what TransformerLens calls them.

In an encoder they mean the same. Where its blocks normalise the sums they make (post-norm), the
stream is what the norms leave: ``resid_mid = norm(resid_pre + attn_out)``, ``resid_post =
norm(resid_mid + mlp_out)``, the block's output. A projector is one block without attention:
``resid_pre`` enters it, ``mlp_act`` is its hidden layer, ``resid_post`` is what the LLM receives.
"""

DIMS: dict[str, str] = {
    "sample": "one clip or text",
    "layer": "0-based index of a block; papers count from 1",
    "head": "attention head (query head)",
    "kv_head": "key-value head; several heads share one under grouped queries",
    "query": "token that attends",
    "key": "token that is attended to",
    "token": "position in the sample (of an encoder: a frame), padding left out",
    "place": "a token that was picked; traced_token says which",
    "feature": "coordinate of a state",
    "neuron": "coordinate inside the MLP",
    "expert": "routed expert of a mixture; shared ones are not counted",
    "segment": "role of a token",
    "rank": "0 for the largest",
}
"""The axes of every array."""

BOS = "bos"
PADDING = "padding"
APPENDED = "appended_silence"

SEGMENTS: tuple[str, ...] = (
    BOS,
    "audio",
    "video",
    "delimiter",
    "instruction",
    "response",
    "text",
    "audiovisual",
    APPENDED,
    PADDING,
    "image",
    "system",
)
"""The roles that a token can play, in the order of the ``segment`` axis (which records hold, so new
ones come last). ``system`` is what a chat model is told before the user's instruction.

``audiovisual`` tokens are made of sound and picture together. ``appended_silence`` is what an
encoder itself adds after the end of a clip and attends to (Whisper fills its window of 30 s): its
frames are no part of the clip, but real tokens, on which a sink may sit. ``padding`` is masked, so
that no token attends to it, and is left out of every record.
"""

TABLE_COLUMNS: tuple[str, ...] = (
    "sample",
    "layer",
    "paper_layer",
    "token",
    "segment",
    "label",
    "start",
    "end",
)
"""How every table of tokens begins; start and end are seconds, NaN where the token has none."""


def paper_layer(layer: int) -> int:
    """The number that papers give to 0-based block ``layer``: they count block outputs from 1."""
    return layer + 1
