"""Encode the synthetic corpus once with the frozen tiny encoders. Depends on torch.

The language model then trains on cached features, half of them heard in noise.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sinkscope.avsr.encoders import Encoder
from sinkscope.avsr.synthetic import Split
from sinkscope.experiments.corpus import read_corpus
from sinkscope.experiments.tiny_encoders import in_noise
from sinkscope.experiments.word_times import HeardWord, word_times

__all__ = ["FeatureStore", "Features", "encode_split"]

PART = 20

Features = dict[str, Tensor]
"""Encoder frames of one clip, ``(frame, width)`` by stream."""


@dataclass(frozen=True)
class FeatureStore:
    """Cached features of a split.

    Attributes:
        clean: what the encoders make of each clip.
        noisy: the same with noise on the sound.
        texts: what is said.
        words: the same with the seconds of every word.
    """

    clean: list[Features]
    noisy: list[Features]
    texts: list[str]
    words: list[list[HeardWord]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)


def encode_split(
    corpus: Path,
    split: Split,
    encoders: dict[str, Encoder],
    cache: Path,
    *,
    limit: int | None = None,
) -> FeatureStore:
    """The features of a split, from the cache where it is there."""
    clips = list(read_corpus(corpus, split, limit=limit))
    texts = [clip.text or "" for clip in clips]
    words = [word_times(text, c.phonemes) for text, c in zip(texts, clips, strict=True)]
    if not cache.exists():
        part = cache.with_suffix(f".{os.getpid()}.part")
        save_file(_encode(corpus, split, encoders, limit), part)
        part.replace(cache)
    flat = load_file(cache)
    rows = {name: flat[name].split(flat[f"{name}.counts"].tolist()) for name in _NAMES}
    clean = [
        {"audio": audio, "video": video}
        for audio, video in zip(rows["clean"], rows["video"], strict=True)
    ]
    noisy = [
        {"audio": audio, "video": video}
        for audio, video in zip(rows["noisy"], rows["video"], strict=True)
    ]
    return FeatureStore(clean, noisy, texts, words)


_NAMES = ("clean", "noisy", "video")


@torch.no_grad()
def _encode(
    corpus: Path, split: Split, encoders: dict[str, Encoder], limit: int | None
) -> dict[str, Tensor]:
    clips = list(read_corpus(corpus, split, limit=limit))
    rng = np.random.default_rng(len(clips))
    rows: dict[str, list[Tensor]] = {name: [] for name in _NAMES}
    for start in range(0, len(clips), PART):
        part = clips[start : start + PART]
        heard = [in_noise(clip, part, rng) for clip in part]
        rows["clean"] += _rows(encoders["audio"], part)
        rows["noisy"] += _rows(encoders["audio"], heard)
        rows["video"] += _rows(encoders["video"], part)
    flat = {name: torch.cat(found) for name, found in rows.items()}
    counts = {f"{name}.counts": torch.tensor([len(r) for r in rows[name]]) for name in _NAMES}
    return flat | counts


def _rows(encoder: Encoder, clips: Sequence) -> list[Tensor]:
    batch, lengths = encoder.prepare(clips)
    features = encoder(batch, lengths).half()
    return [row[:length].clone() for row, length in zip(features, lengths.tolist(), strict=True)]
