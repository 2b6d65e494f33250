"""Figures, one a file: a Record or a table in, matplotlib Axes out.

Every figure says model, layer and averaging; colours can be told apart by colour-blind readers;
nothing is shown or saved, and matplotlib's settings stay as they were.

Example:
    >>> from sinkscope import plots
    >>> ax = plots.attention_map(record, layer=4)   # doctest: +SKIP
    >>> ax.figure.savefig("map.png")                # doctest: +SKIP
"""

from sinkscope.plots.attention_changes import attention_changes as attention_changes
from sinkscope.plots.attention_map import attention_map as attention_map
from sinkscope.plots.before_after import before_after as before_after
from sinkscope.plots.birth import birth as birth
from sinkscope.plots.bos_cosine import bos_cosine as bos_cosine
from sinkscope.plots.cosine_changes import cosine_changes as cosine_changes
from sinkscope.plots.effects import effects as effects
from sinkscope.plots.expert_usage import expert_usage as expert_usage
from sinkscope.plots.feature_changes import feature_changes as feature_changes
from sinkscope.plots.input_controls import input_controls as input_controls
from sinkscope.plots.layer_magnitudes import layer_magnitudes as layer_magnitudes
from sinkscope.plots.magnitudes import magnitudes as magnitudes
from sinkscope.plots.magnitudes_3d import magnitudes_3d as magnitudes_3d
from sinkscope.plots.neurons import neurons as neurons
from sinkscope.plots.rate_similarity import rate_similarity as rate_similarity
from sinkscope.plots.segment_flow import segment_flow as segment_flow
from sinkscope.plots.sink_ancestry import sink_ancestry as sink_ancestry
from sinkscope.plots.sink_changes import sink_changes as sink_changes
from sinkscope.plots.sink_mechanics import sink_mechanics as sink_mechanics
from sinkscope.plots.sink_rate import sink_rate as sink_rate
from sinkscope.plots.sinks_by_rate import sinks_by_rate as sinks_by_rate
from sinkscope.plots.sinks_on_frame import sinks_on_frame as sinks_on_frame
from sinkscope.plots.sinks_over_time import sinks_over_time as sinks_over_time
from sinkscope.plots.usage_distances import usage_distances as usage_distances
from sinkscope.plots.wer_by_tokens import wer_by_tokens as wer_by_tokens

__all__ = [
    "attention_changes",
    "attention_map",
    "before_after",
    "birth",
    "bos_cosine",
    "cosine_changes",
    "effects",
    "expert_usage",
    "feature_changes",
    "input_controls",
    "layer_magnitudes",
    "magnitudes",
    "magnitudes_3d",
    "neurons",
    "rate_similarity",
    "segment_flow",
    "sink_ancestry",
    "sink_changes",
    "sink_mechanics",
    "sink_rate",
    "sinks_by_rate",
    "sinks_on_frame",
    "sinks_over_time",
    "usage_distances",
    "wer_by_tokens",
]
