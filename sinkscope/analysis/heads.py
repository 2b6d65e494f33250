"""Heads: where each one's attention gathers, and whether it rests there. Depends on record."""

import numpy as np
import pandas as pd

from sinkscope.analysis.attention import key_attention
from sinkscope.analysis.tables import check_number, layers_of, references, token_table
from sinkscope.analysis.verdict import sink_attention
from sinkscope.analysis.visibility import entropy_share
from sinkscope.glossary import BOS
from sinkscope.record import Record

__all__ = ["sink_heads"]


def sink_heads(
    record: Record, *, threshold: float = 0.3, min_queries: int = 8, dormant: float = 0.5
) -> pd.DataFrame:
    """The token to which each head attends most, and how much: one row a sample, layer and head.

    Args:
        record: one or several samples.
        threshold: key attention above which the head has a sink, strictly.
        min_queries: number of queries that must see a token for it to count.
        dormant: key attention above which the head is called dormant: it does little but attend
            to one token (the word is that of Guo et al., arXiv 2410.13835; the number is ours).

    Returns:
        ``TABLE_COLUMNS`` of the token with the head's largest key attention, then ``head``,
        ``alpha`` there, ``queries``, ``is_bos``, ``alpha_reference`` (key attention of BOS, or of
        the reference token), ``sink``, ``dormant``, ``entropy`` (nats, mean over queries),
        ``entropy_share`` (see :func:`entropy_share`), and ``bos_present``. A sample without a
        token that enough queries see gives no row.

    Raises:
        InputError: if a threshold is outside its range.
    """
    check_number("dormant", dormant, up_to=1.0)
    verdict = sink_attention(record, threshold=threshold, min_queries=min_queries)
    heads = key_attention(record).transpose("sample", "layer", "head", "key")
    layers = layers_of(heads)
    judged_alpha = np.where(verdict.judged.values[:, :, None], heads.values, -np.inf)
    sample, place, head = np.nonzero(np.isfinite(judged_alpha).any(-1))
    token = judged_alpha.argmax(-1)[sample, place, head]
    alpha = judged_alpha[sample, place, head, token]
    segments = [record.layouts[s].segments[t] for s, t in zip(sample, token, strict=True)]
    columns = {
        "head": head,
        "alpha": alpha,
        "queries": verdict.queries.values[sample, place, token],
        "is_bos": np.array([segment == BOS for segment in segments], bool),
        "alpha_reference": heads.values[sample, place, head, references(record)[sample]],
        "sink": alpha > threshold,
        "dormant": alpha > dormant,
        **_entropy_columns(record, layers, (sample, place, head)),
    }
    attrs = {
        "table": "sink_heads",
        "threshold": threshold,
        "min_queries": min_queries,
        "dormant": dormant,
    }
    return token_table(record, (sample, place, token), layers, columns, attrs=attrs)


def _entropy_columns(
    record: Record, layers: list[int], cells: tuple[np.ndarray, ...]
) -> dict[str, np.ndarray]:
    """Mean entropy of each head's rows, in nats and as a share; NaN if it was not recorded."""
    if "entropy" not in record:
        missing = np.full(len(cells[0]), np.nan)
        return {"entropy": missing, "entropy_share": missing}
    means = {
        "entropy": record["entropy"].mean("query"),
        "entropy_share": entropy_share(record).mean("query"),
    }
    return {
        name: values.reindex(layer=layers).transpose("sample", "layer", "head").values[cells]
        for name, values in means.items()
    }
