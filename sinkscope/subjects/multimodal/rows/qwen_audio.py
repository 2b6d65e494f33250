"""Qwen2-Audio and Qwen3-ASR. Formulas read in transformers 5.23."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sinkscope.subjects.multimodal.sounds import (
    chunked_frames,
    heard,
    mel_lengths,
    mel_step,
    pairs,
)
from sinkscope.subjects.multimodal.table import CHATML, Composite, Given, Stream, StreamTokens

__all__ = ["COMPOSITES"]


def _whole(given: Given) -> list[np.ndarray]:
    """Qwen2-Audio convolves a sound as a whole, two by two; its padding is masked."""
    lengths = mel_lengths(given, "feature_attention_mask")
    return [chunked_frames(length, chunk=max(length, 1), halvings=1) for length in lengths]


def _of_qwen2(given: Given) -> StreamTokens:
    """Two frames of the encoder are averaged: 40 ms."""
    return heard([pairs(edges) for edges in _whole(given)], step=mel_step(given))


def _frames_of_qwen2(called: Mapping[str, Any], given: Given) -> list[StreamTokens]:
    """The sounds side by side, 20 ms a frame."""
    sounds = heard(_whole(given), step=mel_step(given))
    items = range(len(_whole(given)))
    return [sounds.take(np.flatnonzero(sounds.item == item)) for item in items]


def _of_qwen3(given: Given) -> StreamTokens:
    """Three convolutions take two by two, in chunks of a second: 80 ms, the last one 40."""
    chunk = 2 * int(given.config.audio_config.n_window)
    lengths = mel_lengths(given, "input_features_mask")
    sounds = [chunked_frames(length, chunk=chunk, halvings=3) for length in lengths]
    return heard(sounds, step=mel_step(given))


def _frames_of_qwen3(called: Mapping[str, Any], given: Given) -> list[StreamTokens]:
    """The sounds one after another, as one sequence."""
    return [_of_qwen3(given)]


def _stream(tokens: Any, frames: Any) -> dict[str, Stream]:
    return {
        "audio": Stream("audio_token_id", "input_features", tokens, "model.audio_tower", frames)
    }


COMPOSITES = (
    Composite(
        "qwen2_audio",
        "Qwen2-Audio",
        streams=_stream(_of_qwen2, _frames_of_qwen2),
        turns=CHATML,
        delimiters=("<|audio_bos|>", "<|audio_eos|>"),
        notes="Ids with one placeholder a sound, which the model expands itself, are refused.",
    ),
    Composite(
        "qwen3_asr",
        "Qwen3-ASR",
        streams=_stream(_of_qwen3, _frames_of_qwen3),
        turns=CHATML,
        delimiters=("<|audio_start|>", "<|audio_end|>"),
    ),
)
