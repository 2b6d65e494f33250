"""expert_usage and expert_balance: which experts work for which tokens. Depends on record.

Example:
    >>> import sinkscope as ss
    >>> record = ss.record("tiny-mome", ss.read_clip("clip.mp4"))   # doctest: +SKIP
    >>> ss.expert_usage(record)                                     # doctest: +SKIP
    >>> ss.describe(ss.expert_balance(record))                      # doctest: +SKIP
"""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from sinkscope.analysis.routing import Routed, routed_tokens, segments_of, token_mask
from sinkscope.analysis.tables import make_table
from sinkscope.glossary import paper_layer
from sinkscope.record import Record

__all__ = ["expert_balance", "expert_usage", "normalised_entropy"]


def expert_usage(record: Record) -> pd.DataFrame:
    """How often each routed expert is chosen, in every layer and segment.

    Args:
        record: one or several samples of a model with mixtures of experts.

    Returns:
        One row a layer, segment (``"all"`` for all tokens) and expert: ``layer paper_layer segment
        expert tokens``; ``usage`` (its share of all choices, so that the experts of a layer and
        segment sum to 1), ``chosen`` (share of tokens that get it: they sum to ``top_k``),
        ``gate`` (its share of the sum of all gates), ``probability`` (mean over tokens).

    Raises:
        SiteError: the record holds no router.
        InputError: it does not say how many experts a token gets.
    """
    routed = routed_tokens(record)
    parts = []
    for segment in segments_of(record):
        mask = token_mask(record, segment, routed.chosen.shape[2])
        for place, layer in enumerate(routed.layers):
            shares = _shares(routed, mask, place)
            head = {"layer": layer, "paper_layer": paper_layer(layer), "segment": segment}
            experts = {"expert": np.arange(routed.experts), "tokens": int(mask.sum())}
            parts.append(pd.DataFrame(head | experts | shares))
    attrs = _attrs(routed) | {"table": "expert_usage"}
    return make_table(pd.concat(parts, ignore_index=True), record, attrs)


def expert_balance(record: Record) -> pd.DataFrame:
    """How evenly the routed experts work, in every layer and segment.

    Args:
        record: one or several samples of a model with mixtures of experts.

    Returns:
        One row a layer and segment (``"all"`` for all tokens): ``layer paper_layer segment
        tokens``; ``usage_entropy`` (of the shares of choices over log E: 1 where all experts are
        chosen equally often), ``token_entropy`` (mean over tokens of the entropy of their own
        probabilities, over log E: 0 where the router is sure of one), ``balance`` (E · Σ f p, with
        f the share of choices and p the mean probability: 1 where balanced; Switch Transformers,
        arXiv 2101.03961, eq. 4), ``max_over_mean`` (busiest expert, 1 to E), ``unused`` (experts
        that no token chose). Few tokens cannot use all experts: compare with ``tokens``.

    Raises:
        SiteError: the record holds no router.
        InputError: it does not say how many experts a token gets.
    """
    routed = routed_tokens(record)
    rows = []
    for segment in segments_of(record):
        mask = token_mask(record, segment, routed.chosen.shape[2])
        for place, layer in enumerate(routed.layers):
            head = {"layer": layer, "paper_layer": paper_layer(layer), "segment": segment}
            rows.append(head | {"tokens": int(mask.sum())} | _balance(routed, mask, place))
    attrs = _attrs(routed) | {"table": "expert_balance"}
    return make_table(pd.DataFrame(rows), record, attrs)


def normalised_entropy(
    shares: Float[np.ndarray, "*place expert"],
) -> Float[np.ndarray, "*place"]:
    """Entropy of shares that sum to 1, over the log of their number: 1 where all are equal.

    Examples:
        >>> normalised_entropy(np.array([[0.25] * 4, [1.0, 0.0, 0.0, 0.0]])).tolist()
        [1.0, 0.0]
    """
    if shares.shape[-1] == 1:
        return np.zeros(shares.shape[:-1])
    terms = shares * np.log(np.where(shares > 0, shares, 1.0))
    return np.asarray(np.abs(terms.sum(-1)) / np.log(shares.shape[-1]))


def _shares(routed: Routed, mask: np.ndarray, place: int) -> dict[str, np.ndarray]:
    chosen = routed.chosen[:, place][mask].sum(0)
    gates = routed.gates[:, place][mask].sum(0)
    return {
        "usage": chosen / chosen.sum(),
        "chosen": chosen / mask.sum(),
        "gate": gates / gates.sum(),
        "probability": routed.probabilities[:, place][mask].mean(0),
    }


def _balance(routed: Routed, mask: np.ndarray, place: int) -> dict[str, float | int]:
    shares = _shares(routed, mask, place)
    usage, probability = shares["usage"], shares["probability"]
    own = routed.probabilities[:, place][mask]
    return {
        "usage_entropy": float(normalised_entropy(usage)),
        "token_entropy": float(normalised_entropy(own).mean()),
        "balance": float(routed.experts * (usage * probability).sum()),
        "max_over_mean": float(usage.max() * routed.experts),
        "unused": int((usage == 0).sum()),
    }


def _attrs(routed: Routed) -> dict[str, Any]:
    return {"experts": routed.experts, "top_k": routed.top_k}
