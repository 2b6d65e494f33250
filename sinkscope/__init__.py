"""See the attention sinks and massive activations of audio-visual LLMs.

Example:
    >>> import sinkscope as ss
    >>> subject = ss.load("tiny-avsr")              # doctest: +SKIP
    >>> record = ss.record(subject, ss.read_clip("clip.mp4"))   # doctest: +SKIP
    >>> ss.find_sinks(record)                       # doctest: +SKIP

Every name below is loaded when it is first used, so that ``import sinkscope`` is instant.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "SinkscopeError": "errors",
    "TokenLayout": "layout",
    "Record": "record",
    "merge": "record",
    "Clip": "avsr.clip",
    "read_clip": "avsr.media",
    "load": "subjects.subject",
    "bundled_clips": "subjects.bundled",
    "register_family": "subjects.registering",
    "record": "probes.probe",
    "probe": "probes.probe",
    "record_rates": "probes.rates",
    "to_transformer_lens": "probes.to_transformer_lens",
    "trace": "probes.trace",
    "trace_origin": "analysis.origin",
    "DEFAULT": "probes.reducers",
    "Keep": "probes.reducers",
    "SegmentAttention": "probes.reducers",
    "RowEntropy": "probes.reducers",
    "ArgmaxShare": "probes.reducers",
    "LearnedSink": "probes.learned_sinks",
    "PatternBins": "probes.reducers",
    "Pick": "probes.reducers",
    "TopActivations": "probes.reducers",
    "Median": "probes.reducers",
    "Norms": "probes.reducers",
    "BosSimilarity": "probes.reducers",
    "key_attention": "analysis.sinks",
    "sink_rate": "analysis.sinks",
    "find_sinks": "analysis.sinks",
    "sink_heads": "analysis.sinks",
    "find_massive_activations": "analysis.massive",
    "find_high_norm": "analysis.high_norm",
    "sink_ancestry": "analysis.ancestry",
    "follow_sinks": "interventions.following",
    "bos_similarity": "analysis.similarity",
    "sink_mechanics": "analysis.mechanics",
    "segment_attention": "analysis.flow",
    "learned_sinks": "analysis.learned_sinks",
    "expert_usage": "analysis.experts",
    "expert_balance": "analysis.experts",
    "sink_experts": "analysis.sink_experts",
    "usage_distances": "analysis.usage_distances",
    "usage_across_rates": "analysis.usage_across_rates",
    "rate_similarity": "analysis.rate_similarity",
    "clip_match": "analysis.rate_similarity",
    "sinks_by_rate": "analysis.sinks_by_rate",
    "sink_share": "analysis.sinks_by_rate",
    "sink_agreement": "analysis.sink_agreement",
    "intervene": "interventions.intervene",
    "measure": "interventions.measure",
    "Thresholds": "analysis.thresholds",
    "effects": "analysis.effects",
    "describe": "analysis.words",
    "find_origins": "interventions.findings",
    "standard_interventions": "interventions.standard",
    "explain": "interventions.explain",
    "Zero": "interventions.edits",
    "Replace": "interventions.edits",
    "Scale": "interventions.edits",
    "Clamp": "interventions.edits",
    "Rotate": "interventions.rotation",
    "knock_out": "interventions.knock_out",
    "SilenceExperts": "interventions.experts",
    "BlockAttention": "interventions.blocking",
    "DropBos": "interventions.blocking",
    "SwapEmbeddings": "interventions.embeddings",
    "ReplaceEmbeddings": "interventions.embeddings",
    "frames_of_token": "analysis.alignment",
    "in_encoder": "analysis.alignment",
    "validate_features": "analysis.validation",
    "feature_stability": "analysis.stability",
    "compare": "analysis.compare",
    "Comparison": "analysis.comparison",
    "transcript_errors": "avsr.transcripts",
    "compare_features": "analysis.inheritance",
    "published_features": "analysis.published",
    "match_published": "analysis.published",
    "input_controls": "interventions.input_controls",
    "attach_mome": "subjects.mome",
    "MomeSettings": "avsr.mome_settings",
    "hold_routing": "avsr.mome.routing",
    "balance_loss": "avsr.mome.routing",
    "decorrelation_loss": "training.decorrelation",
    "hold_states": "training.states",
    "WeightSchedule": "training.schedule",
    "SinkTrainer": "training.trainer",
    "SinkCallback": "training.callbacks",
}

__all__ = ["__version__", "plots", *_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "plots":
        return import_module("sinkscope.plots")
    if name not in _HOME:
        raise AttributeError(f"module 'sinkscope' has no attribute {name!r}")
    value = getattr(import_module(f"sinkscope.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps ``sinkscope.record`` the function: importing the file of that name must not hide it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
