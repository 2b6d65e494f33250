"""One row of the table of model families. Plain data, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Experts", "Family"]


@dataclass(frozen=True)
class Experts:
    """Where a block's mixture of experts is, in the classes of transformers.

    Attributes:
        router: the module that returns logits, gates and numbers of the chosen experts.
        module: the module that computes all experts.
        probabilities: ``"softmax"`` where the router's are that of its logits over all experts,
            ``"given"`` where it returns them, ``""`` where its scores are none.
        adds: whether what the experts make together is added as it is.
        renormalised: whether the chosen gates are scaled to the sum 1, where the router has no
            ``norm_topk_prob`` that says so.
        plain: fields of the configuration with the value at which the chosen experts are the most
            probable ones and their gates are their probabilities, scaled to the sum 1 or not.
    """

    router: str = "mlp.gate"
    module: str = "mlp.experts"
    probabilities: str = "softmax"
    adds: bool = True
    renormalised: bool = True
    plain: Mapping[str, object] = field(default_factory=dict)

    def simple(self, config: object) -> bool:
        """Whether ``plain`` holds; never where the router gives no probabilities."""
        holds = all(getattr(config, name, None) == value for name, value in self.plain.items())
        return self.probabilities == "softmax" and holds


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
        requires: fields of the configuration that would change a formula, with the value, or the
            tuple of values, that this row is right for (also right: the field is absent).
        builtin: whether the row describes the classes of transformers, and of no one else.
        causal: whether a query sees the keys up to itself only; an encoder's queries see all.
        sites: the only sites of its blocks, where it lacks most; None for all.
        cross_out: the module whose output cross-attention adds to the residual stream, before
            ``resid_mid``; "" where there is none.
        mask: of an encoder's forward, the argument that says which frames are real; "" for none.
        mixer: the module that stands where ``attention`` would in blocks that have none (linear
            attention, a convolution, a state space); its output is ``attn_out`` there.
        active: where a block carries several streams on a first axis, the field of the
            configuration that says which one attention and MLP read; that one is the stream here.
        also: what a block does to the stream beside what its attention and its MLP add, in words;
            then its sites do not sum up to ``resid_post``.
        experts: the mixture of experts that its blocks, or some of them, have; None for none.
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
    mixer: str | None = None
    active: str | None = None
    also: str = ""
    experts: Experts | None = None
