"""Comparison: what ``compare`` found, as tables. Depends on pandas only."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from sinkscope.analysis.thresholds import Thresholds

__all__ = ["MEANING", "Comparison"]

MEANING: dict[str, str] = {
    "effects": "Every number before and after (means over clips), its change with the 95 % "
    "interval over clips, and the effect size (mean over standard deviation of the clips' "
    "differences).",
    "features": "Every massive feature by layer, and over all layers where no layer is named: "
    "kept, lost or new; its largest |x| (mean over clips) and ratio to the median before and "
    "after. 'At most' says that the record knows the magnitude from above only.",
    "feature_sets": "How far a layer's massive features are one set before and after (Jaccard "
    "index).",
    "sink_tally": "Sinks kept, lost and new by segment, label and layer: over all labels where "
    "none is named, over all layers likewise; tokens of all clips.",
    "sinks": "Every token that is a sink in a layer before or after, with its key attention.",
    "similarity_summary": "Cosine to BOS by layer and segment: quantiles over tokens, twins a "
    "clip, mean cos² with its change.",
    "attention": "Share of a segment's attention that goes to each segment, before and after.",
    "layers": "In how many clips and tokens of each layer massive activations live.",
    "clips": "The same numbers clip by clip.",
    "similarity": "Cosine of every token to BOS before and after, in every layer.",
}
"""What each table holds, in the order of a report."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What changed between two models on the same clips.

    ``describe(comparison)`` puts it in words. In tables "before" and "after" stand for the two
    models, and a missing ``layer`` for all layers together.

    Attributes:
        before: name of the model before.
        after: name of the model after.
        thresholds: the rule of both, with the ratio that was used.
        features: massive features kept, lost and new: see ``feature_changes``.
        feature_sets: Jaccard indices of the sets: see ``set_changes``.
        sinks: sinks kept, lost and new: see ``sink_changes``.
        sink_tally: the same counted: see ``sink_tally``.
        similarity: cosine to BOS of every token: see ``similarity_changes``.
        similarity_summary: its distributions: see ``similarity_summary``.
        attention: attention between segments: ``layer paper_layer query_segment key_segment``,
            then the columns of ``paired_change``.
        layers: where massive activations live: see ``layer_changes``.
        effects: how far every number moves: see ``number_changes``.
        clips: the numbers of every clip, ``<metric>_before`` and ``<metric>_after``.
    """

    before: str
    after: str
    thresholds: Thresholds
    features: pd.DataFrame
    feature_sets: pd.DataFrame
    sinks: pd.DataFrame
    sink_tally: pd.DataFrame
    similarity: pd.DataFrame
    similarity_summary: pd.DataFrame
    attention: pd.DataFrame
    layers: pd.DataFrame
    effects: pd.DataFrame
    clips: pd.DataFrame

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """All tables by name, in the order of a report."""
        return {name: getattr(self, name) for name in MEANING}
