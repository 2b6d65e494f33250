"""What it means: records in, tables out. Pure, and never torch.

Every table of tokens begins with ``glossary.TABLE_COLUMNS``, ends with ``bos_present``, and carries
its thresholds in ``attrs``; ``describe`` puts it in words, also when it found nothing.
"""

from sinkscope.analysis.alignment import frames_of_token, in_encoder
from sinkscope.analysis.compare import compare
from sinkscope.analysis.comparison import Comparison
from sinkscope.analysis.detectors import detector_agreement
from sinkscope.analysis.experts import expert_balance, expert_usage
from sinkscope.analysis.flow import segment_attention
from sinkscope.analysis.inheritance import compare_features
from sinkscope.analysis.massive import (
    find_massive_activations,
    massive_features,
    massive_layers,
)
from sinkscope.analysis.mechanics import sink_mechanics
from sinkscope.analysis.published import match_published, published_features
from sinkscope.analysis.rate_similarity import clip_match, rate_similarity
from sinkscope.analysis.similarity import bos_similarity, twins
from sinkscope.analysis.sink_agreement import sink_agreement
from sinkscope.analysis.sink_experts import sink_experts
from sinkscope.analysis.sinks import (
    find_sinks,
    key_attention,
    sink_heads,
    sink_rate,
    sink_summary,
)
from sinkscope.analysis.sinks_by_rate import sink_share, sinks_by_rate
from sinkscope.analysis.stability import feature_stability
from sinkscope.analysis.tokens import low_meaning
from sinkscope.analysis.usage_across_rates import usage_across_rates
from sinkscope.analysis.usage_distances import usage_distances
from sinkscope.analysis.validation import validate_features
from sinkscope.analysis.words import describe

__all__ = [
    "Comparison",
    "bos_similarity",
    "clip_match",
    "compare",
    "compare_features",
    "describe",
    "detector_agreement",
    "expert_balance",
    "expert_usage",
    "feature_stability",
    "find_massive_activations",
    "find_sinks",
    "frames_of_token",
    "in_encoder",
    "key_attention",
    "low_meaning",
    "massive_features",
    "massive_layers",
    "match_published",
    "published_features",
    "rate_similarity",
    "segment_attention",
    "sink_agreement",
    "sink_experts",
    "sink_heads",
    "sink_mechanics",
    "sink_rate",
    "sink_share",
    "sink_summary",
    "sinks_by_rate",
    "twins",
    "usage_across_rates",
    "usage_distances",
    "validate_features",
]
