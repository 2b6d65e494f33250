"""Where an arm's sinks come from and what they are: the package's own tools, over a few clips.

Depends on all rooms. What is written to a folder is what the claims are judged by.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from sinkscope.analysis.massive import find_massive_activations
from sinkscope.analysis.similarity import bos_similarity
from sinkscope.analysis.sinks import find_sinks
from sinkscope.analysis.tokens import low_meaning
from sinkscope.avsr.clip import Clip
from sinkscope.interventions.embeddings import SwapEmbeddings
from sinkscope.interventions.explain import explain
from sinkscope.interventions.intervene import intervene
from sinkscope.probes.probe import record
from sinkscope.record import Record, merge
from sinkscope.subjects.avsr import AvsrSubject

__all__ = ["delimiter_attention", "feature_agreement", "look_closer", "similarity_by_layer"]

SWAPPED = ("<audio>", "</audio>")
EXPLAINED = 12
"""Clips on which the causal tests are run: about ten forwards each."""


def look_closer(subject: AvsrSubject, folder: Path, clips: Sequence[Clip]) -> None:
    """Write what is found to ``folder``, once: the tables below, births and causal tests."""
    if folder.exists():
        return
    seen = merge([record(subject, clip) for clip in clips])
    sinks = find_sinks(seen)
    tables = {
        "low_meaning": low_meaning(seen, sinks),
        "feature_agreement": feature_agreement(seen),
        "similarity": similarity_by_layer(seen, sinks),
        "delimiters": delimiter_attention(subject, clips),
    }
    story = explain(subject, list(clips[:EXPLAINED]), transcribe=False)
    tables["tests"] = story.tests
    if story.findings.origin is not None:
        tables |= {"births": story.findings.births, "neurons": story.findings.origin.neurons}
    temporary = folder.with_name(f".{folder.name}.part")
    temporary.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.to_csv(temporary / f"{name}.csv", index=False)
    (temporary / "story.txt").write_text(story.words + "\n", encoding="utf-8")
    temporary.replace(folder)


def feature_agreement(seen: Record) -> pd.DataFrame:
    """Do other massive tokens share BOS's massive features, and are they the sinks?

    Returns:
        One row a massive token of a clip and layer, BOS apart: ``sample layer token label shared
        own bos`` (features that both have, that it has, that BOS has), and whether it
        ``is_sink`` in any layer.
    """
    massive = find_massive_activations(seen)
    sinks = find_sinks(seen)
    is_sink = set(zip(sinks["sample"], sinks["token"], strict=True))
    rows = []
    for (sample, layer), group in massive.groupby(["sample", "layer"]):  # pyright: ignore
        bos = set(group.loc[group["segment"] == "bos", "feature"])
        others = group.loc[group["segment"] != "bos"]
        for (token, label), own in others.groupby(["token", "label"]):  # pyright: ignore
            features = set(own["feature"])
            row = {"sample": sample, "layer": layer, "token": token, "label": label}
            row |= {"shared": len(features & bos), "own": len(features), "bos": len(bos)}
            rows.append(row | {"is_sink": (sample, token) in is_sink})
    columns = ["sample", "layer", "token", "label", "shared", "own", "bos", "is_sink"]
    return pd.DataFrame(rows, columns=columns)


def similarity_by_layer(seen: Record, sinks: pd.DataFrame) -> pd.DataFrame:
    """The cosine to BOS after every block, of intermediate sinks and of the other tokens.

    Returns:
        ``layer kind tokens mean low high``: the mean, and the 5 % and 95 % quantiles over tokens.
    """
    cosines = bos_similarity(seen)
    cosines = cosines.loc[~cosines["is_reference"]]
    found = set(zip(sinks["sample"], sinks["token"], strict=True))
    places = zip(cosines["sample"], cosines["token"], strict=True)
    kind = np.where([place in found for place in places], "sink", "other")
    groups = cosines.assign(kind=kind).groupby(["layer", "kind"])["cosine"]
    table = groups.agg(["size", "mean"]).rename(columns={"size": "tokens"}).reset_index()
    ends = groups.quantile([0.05, 0.95]).unstack().reset_index(drop=True)
    return table.assign(low=ends[0.05], high=ends[0.95])


def delimiter_attention(subject: AvsrSubject, clips: Sequence[Clip]) -> pd.DataFrame:
    """The attention that each delimiter draws, and the same with two embeddings exchanged.

    Returns:
        ``swapped layer label alpha``: head-mean key attention, a mean over clips.
    """
    words = [SwapEmbeddings(*SWAPPED)]
    parts = []
    for swapped in (False, True):
        for sample, clip in enumerate(clips):
            if swapped:
                with intervene(subject, words):
                    seen = record(subject, clip)
            else:
                seen = record(subject, clip)
            parts.append(_alphas(seen).assign(swapped=swapped, sample=sample))
    table = pd.concat(parts)
    means = table.pivot_table("alpha", ["swapped", "layer", "label"], aggfunc="mean")
    return means.reset_index()


def _alphas(seen: Record) -> pd.DataFrame:
    """Head-mean key attention of every delimiter and BOS, by layer."""
    layout = seen.layouts[0]
    total = seen["segment_sum"].isel(sample=0).sum("segment").mean("head")
    queries = seen["queries"].isel(sample=0).sum("segment")
    alpha = (total / queries.where(queries > 0)).values
    wanted = [i for i, segment in enumerate(layout.segments) if segment in ("bos", "delimiter")]
    return pd.DataFrame(
        [
            {"layer": layer, "label": layout.labels[token], "alpha": alpha[place, token]}
            for place, layer in enumerate(seen.layers)
            for token in wanted
        ]
    )
