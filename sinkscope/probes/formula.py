"""A check that the formula in `blocks` is the one that the model uses: never guess.

The output of the last query is made from the map's last row and the values, and compared with what
the model's own function returned. Another formula, mask or window shows there.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from sinkscope.errors import SiteError
from sinkscope.probes.blocks import AttentionMap

__all__ = ["refuse_unlike"]

_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3}
_HALF_TOLERANCE = 4e-2


def refuse_unlike(
    attention: AttentionMap,
    value: Float[Tensor, "kv_head key feature_v"],
    output: Float[Tensor, "head feature_v"],
    *,
    where: str,
    trains: bool = False,
) -> None:
    """Refuse a map whose last row does not give the output that the model computed.

    Args:
        attention: the map.
        value: of the map's keys.
        output: of the map's last query.
        where: for the message.
        trains: whether the model drops weights at random, as in training.

    Raises:
        SiteError: if they differ by more than rounding explains.
    """
    rows = attention.rows(attention.n_queries - 1, attention.n_queries)
    first = rows.first_key - attention.first_key
    seen = value[:, first : first + rows.weights.shape[2]].to(rows.weights.dtype)
    weights = rearrange(rows.weights, "(h g) 1 k -> h g k", h=len(seen))
    expected = rearrange(weights @ seen, "h g d -> (h g) d")
    if not torch.isfinite(output).all():
        return
    off = float((output.to(expected.dtype) - expected).abs().amax())
    size = float(seen.abs().amax().clamp_min(1e-6))
    if off <= _TOLERANCE.get(output.dtype, _HALF_TOLERANCE) * size:
        return
    if trains:
        raise SiteError(
            f"Attention maps: in {where} the model is in training mode and drops attention weights "
            "at random, so that the maps are not what it used; call model.eval() first."
        )
    raise SiteError(
        f"Attention maps: in {where} the model's own attention gives another output than "
        f"softmax(q kᵀ · {attention.scaling:.4g}) with the mask that arrived (off by {off:.2g} "
        f"where values reach {size:.2g}): its formula is not known here. Record sites other "
        "than pattern, or load it with attn_implementation='eager'."
    )
