"""knock_out: the edit that silences a part of a block.

Example:
    >>> knock_out(layers=1, neurons=11).site
    'mlp_act'
"""

from typing import Literal

from sinkscope.errors import InputError
from sinkscope.interventions.edits import Edit, Zero
from sinkscope.interventions.experts import SilenceExperts
from sinkscope.interventions.targets import Numbers, TokenChoice

__all__ = ["knock_out"]

PARTS = {"attention": "attn_out", "mlp": "mlp_out", "experts": "expert_out"}
"""The sites of whole parts."""


def knock_out(
    *,
    layers: Numbers,
    part: Literal["attention", "mlp", "experts"] | None = None,
    heads: Numbers | None = None,
    neurons: Numbers | None = None,
    experts: Numbers | None = None,
    tokens: TokenChoice = None,
) -> Edit:
    """The edit that silences a part of a block: what it would add becomes 0.

    Args:
        layers: in which blocks.
        part: the whole attention or the whole MLP, with a mixture of experts that is beside it; or
            the whole mixture of "experts", shared ones too, and nothing else.
        heads: instead, heads of attention.
        neurons: instead, neurons of the MLP.
        experts: instead, routed experts of a mixture, whose gates become 0; for gates that are
            normalised again see ``SilenceExperts``.
        tokens: at which tokens; None for all.

    Raises:
        InputError: if not exactly one of part, heads, neurons and experts is given.
    """
    choices = {"part": part, "heads": heads, "neurons": neurons, "experts": experts}
    if sum(one is not None for one in choices.values()) != 1:
        raise InputError("knock_out: give one of part=, heads=, neurons= and experts=.")
    if heads is not None:
        return Zero(site="z", layers=layers, heads=heads, tokens=tokens)
    if neurons is not None:
        return Zero(site="mlp_act", layers=layers, features=neurons, tokens=tokens)
    if experts is not None:
        return SilenceExperts(layers=layers, experts=experts, tokens=tokens)
    if part not in PARTS:
        raise InputError(f"knock_out: part is {part!r}; give 'attention', 'mlp' or 'experts'.")
    return Zero(site=PARTS[part], layers=layers, tokens=tokens)
