"""What a trained model understands, and what is extreme in it. Depends on torch.

Word errors are counted on long utterances of unseen voices; sinks, twins and massive activations
on some of them, before a word is written, with the package's own probes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sinkscope.analysis.clip_numbers import clip_numbers
from sinkscope.analysis.massive import find_massive_activations
from sinkscope.analysis.sinks import find_sinks
from sinkscope.analysis.verdict import sink_attention
from sinkscope.avsr.clip import Clip
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.scoring import utterance_errors
from sinkscope.experiments.tiny_features import FeatureStore
from sinkscope.experiments.tiny_listening import restrict, transcribe_features
from sinkscope.interventions.sink_numbers import sink_numbers
from sinkscope.probes.probe import record
from sinkscope.record import Record, merge
from sinkscope.subjects.avsr import AvsrSubject, avsr_subject

__all__ = ["count_errors", "measure", "numbers_of", "record_clips", "subject_of"]

Rates = tuple[int, int]

KEPT = (
    *("sample", "layer", "token", "segment", "label", "kind", "alpha", "sink_rate", "massive"),
    *("twin", "ratio", "cosine_to_bos", "loudness_db", "silence", "motion", "phoneme"),
)
"""Columns of the sinks that are written down."""


def measure(
    model: LlamaAvsr,
    folder: Path,
    *,
    store: FeatureStore,
    clips: Sequence[Clip],
    task: str,
    rates: Rates,
) -> None:
    """Write ``errors.json``, ``numbers.csv`` and ``sinks.csv`` to a folder, once.

    Args:
        model: what is measured.
        folder: where.
        store: the features of the utterances that are transcribed.
        clips: those whose sinks are looked for.
        task: ``"audio"``, ``"video"`` or ``"audiovisual"``.
        rates: encoder frames a token, of sound and of picture.
    """
    if (folder / "sinks.csv").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    errors = count_errors(model, store, task, rates)
    (folder / "errors.json").write_text(json.dumps(errors))
    seen = record_clips(subject_of(model, task, rates), clips)
    pd.DataFrame([numbers_of(one) for one in seen]).to_csv(folder / "numbers.csv", index=False)
    sinks = find_sinks(merge(seen))
    kept = sinks.reindex(columns=list(KEPT))
    kept.to_csv(folder / "new.csv", index=False)
    (folder / "new.csv").replace(folder / "sinks.csv")


def count_errors(
    model: LlamaAvsr, store: FeatureStore, task: str, rates: Rates
) -> list[tuple[int, int, int, int]]:
    """Words, substitutions, deletions and insertions of every utterance."""
    said = transcribe_features(model, [restrict(one, task) for one in store.clean], rates)
    rows = [utterance_errors(text, heard) for text, heard in zip(store.texts, said, strict=True)]
    return [(row.words, row.substitutions, row.deletions, row.insertions) for row in rows]


def subject_of(model: LlamaAvsr, task: str, rates: Rates) -> AvsrSubject:
    """The model as a subject that hears a task at these rates."""
    subject = avsr_subject(model)
    return subject.with_options(modality=task, audio_rate=rates[0], video_rate=rates[1])


def record_clips(subject: AvsrSubject, clips: Sequence[Clip]) -> list[Record]:
    """One default record a clip."""
    return [record(subject, clip) for clip in clips]


def numbers_of(seen: Record) -> dict[str, Any]:
    """The numbers of one clip: those of `sink_numbers`, the loss's own, and massive tokens.

    ``cos2``: mean squared cosine to BOS over the tokens and the layers that the loss compares;
    ``n_massive_tokens``: tokens other than BOS that are massive in some layer;
    ``first_massive last_massive``: the layers between which BOS is.
    """
    massive = find_massive_activations(seen)
    numbers = clip_numbers(seen, sink_attention(seen), massive, cosine=0.8)
    own = massive.loc[massive["segment"] == "bos", "layer"]
    others = massive.loc[massive["segment"] != "bos", "token"]
    return {
        **sink_numbers(seen),
        "cos2": float(numbers["mean_cos2"].to_numpy()[0]),
        "n_massive_tokens": int(others.nunique()),
        "first_massive": own.min() if len(own) else np.nan,
        "last_massive": own.max() if len(own) else np.nan,
    }
