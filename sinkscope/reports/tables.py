"""The tables of a run, by name, and a sentence that says what each one holds."""

import pandas as pd

from sinkscope.analysis.detectors import detector_agreement
from sinkscope.analysis.flow import segment_attention
from sinkscope.analysis.massive import find_massive_activations, massive_features, massive_layers
from sinkscope.analysis.similarity import bos_similarity, twins
from sinkscope.analysis.sinks import find_sinks, sink_heads, sink_summary
from sinkscope.analysis.thresholds import Thresholds
from sinkscope.analysis.tokens import low_meaning
from sinkscope.record import Record

__all__ = ["MEANING", "run_tables"]

MEANING: dict[str, str] = {
    "sink_summary": "Every token that is a sink in some layer, with the layers and what agrees.",
    "sinks": "Every sink: one row for each token and layer.",
    "massive_activations": "Every massive activation: one row for each layer, token and feature.",
    "massive_features": "The massive features of each token, and whether a layer's tokens share "
    "one set.",
    "massive_layers": "The three largest |x| of every layer beside its median.",
    "twins": "Tokens whose state points where BOS's points, and whether they draw attention.",
    "sink_heads": "The token to which each head attends most.",
    "segment_attention": "Share of each segment's attention that goes to each segment (mean over "
    "heads).",
    "low_meaning": "Audio and video tokens that are sinks against those that are not: loudness, "
    "silence, motion, pauses.",
    "detector_agreement": "How far the signs of a sink flag the same tokens (Jaccard index).",
    "bos_similarity": "Cosine of every token's state to BOS's, in every layer.",
}
"""What each table holds, in the order of the report."""


def run_tables(record: Record, thresholds: Thresholds) -> dict[str, pd.DataFrame]:
    """All tables of a run, in the order of ``MEANING``.

    Args:
        record: one or several samples.
        thresholds: what counts as a sink and as massive.

    Returns:
        Tables by name; ``detector_agreement`` only where neighbouring layers were recorded, since
        it compares attention with the state that enters a layer.
    """
    sinks = find_sinks(record, **thresholds.of_sinks)
    massive = find_massive_activations(record, **thresholds.of_massive)
    tables = {
        "sink_summary": sink_summary(sinks),
        "sinks": sinks,
        "massive_activations": massive,
        "massive_features": massive_features(massive),
        "massive_layers": massive_layers(record),
        "twins": twins(record, **thresholds.of_twins),
        "sink_heads": sink_heads(
            record, threshold=thresholds.threshold, min_queries=thresholds.min_queries
        ),
        "segment_attention": segment_attention(record),
        "low_meaning": low_meaning(record, sinks),
        "bos_similarity": bos_similarity(record),
    }
    if any(layer + 1 in record.layers for layer in record.layers):
        tables["detector_agreement"] = detector_agreement(
            record, threshold=thresholds.threshold, ratio=thresholds.ratio, cosine=thresholds.cosine
        )
    return {name: tables[name] for name in MEANING if name in tables}
