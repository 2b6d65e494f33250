"""The reducers that a probe takes, and those of a default record.

Example:
    >>> [type(reducer).__name__ for reducer in DEFAULT][:2]
    ['SegmentAttention', 'RowEntropy']
"""

from sinkscope.probes.attention_reducers import ArgmaxShare, RowEntropy, SegmentAttention
from sinkscope.probes.bins import PatternBins
from sinkscope.probes.keep import Keep
from sinkscope.probes.pick import Pick
from sinkscope.probes.reducer import Reducer
from sinkscope.probes.residual_reducers import BosSimilarity, Median, Norms, TopActivations

__all__ = [
    "DEFAULT",
    "ArgmaxShare",
    "BosSimilarity",
    "Keep",
    "Median",
    "Norms",
    "PatternBins",
    "Pick",
    "Reducer",
    "RowEntropy",
    "SegmentAttention",
    "TopActivations",
]

DEFAULT: tuple[Reducer, ...] = (
    SegmentAttention(),
    RowEntropy(),
    TopActivations("resid_post", k=8),
    TopActivations("mlp_out", k=5, per="layer"),
    TopActivations("attn_out", k=5, per="layer"),
    Median("resid_post"),
    Median("mlp_out"),
    Median("attn_out"),
    Norms("resid_post"),
    Norms("k"),
    Norms("v"),
    BosSimilarity("resid_post"),
)
"""The statistics of a default record: memory linear in the number of tokens."""
