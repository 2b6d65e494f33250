"""Qwen2.5-Omni and Qwen3-Omni-MoE (their thinkers). Formulas read in transformers 5.23.

With the sound of a film between its frames, both streams keep their own order, so that nothing here
depends on how they are interleaved.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sinkscope.subjects.multimodal.films import film_times
from sinkscope.subjects.multimodal.rows.qwen_vl import Times, seen
from sinkscope.subjects.multimodal.sounds import (
    chunked_frames,
    heard,
    mel_lengths,
    mel_step,
    pairs,
)
from sinkscope.subjects.multimodal.squares import Grid
from sinkscope.subjects.multimodal.table import CHATML, Composite, Given, Stream, StreamTokens

__all__ = ["COMPOSITES"]

MASK = "feature_attention_mask"


def _sounds(given: Given, *, halvings: int) -> list[np.ndarray]:
    """The log-mel frames of each frame of the audio encoder, for each sound."""
    chunk = 2 * int(given.config.audio_config.n_window)
    return [
        chunked_frames(length, chunk=chunk, halvings=halvings)
        for length in mel_lengths(given, MASK)
    ]


def _of_qwen2(given: Given) -> StreamTokens:
    """One convolution takes two by two, then two frames are averaged: 40 ms."""
    return heard([pairs(edges) for edges in _sounds(given, halvings=1)], step=mel_step(given))


def _frames_of_qwen2(called: Mapping[str, Any], given: Given) -> list[StreamTokens]:
    return [heard(_sounds(given, halvings=1), step=mel_step(given))]


def _of_qwen3(given: Given) -> StreamTokens:
    """Three convolutions take two by two, in chunks of a second: 80 ms, the last one 40."""
    return heard(_sounds(given, halvings=3), step=mel_step(given))


def _frames_of_qwen3(called: Mapping[str, Any], given: Given) -> list[StreamTokens]:
    return [_of_qwen3(given)]


def _clock(given: Given, grids: Sequence[Grid]) -> list[Times]:
    """When the frames of tokens are: as the processor sampled them, else as the LLM is told.

    The two differ where the processor samples at another pace than it was asked for.
    """
    every = int(given.config.vision_config.temporal_patch_size)
    steps = None
    placed = "position_ids" in given.inputs or "input_ids" not in given.inputs
    if not placed or "video_second_per_grid" in given.inputs:
        steps = given.needed("video_second_per_grid", "video", entries=len(grids))
    found = []
    for item, (frames, _, _) in enumerate(grids):
        times = film_times(given, item, frames=frames, every=every)
        if np.isnan(times).any() and steps is not None:
            times = float(steps[item]) * (np.arange(frames)[:, None] + np.arange(2))
        found.append(times)
    return found


DELIMITERS = (
    *("audio_start_token_id", "audio_end_token_id"),
    *("vision_start_token_id", "vision_end_token_id"),
)
"""Fields of the configuration; Qwen3-Omni's class lacks some that its checkpoints have."""

TWO_A_SECOND = {"do_sample_frames": True, "fps": 2.0}
"""The pace that the processor tells the LLM where none is asked for; by itself it takes all."""

COMPOSITES = (
    Composite(
        "qwen2_5_omni_thinker",
        "Qwen2.5-Omni (thinker)",
        streams={
            "audio": Stream(
                "audio_token_id",
                "input_features",
                _of_qwen2,
                "model.audio_tower",
                _frames_of_qwen2,
            ),
            **seen(_clock, windows=True),
        },
        turns=CHATML,
        delimiters=(
            *DELIMITERS,
            *("<|audio_bos|>", "<|audio_eos|>", "<|vision_bos|>", "<|vision_eos|>"),
        ),
        film=TWO_A_SECOND,
        audio_in_video=True,
    ),
    Composite(
        "qwen3_omni_moe_thinker",
        "Qwen3-Omni-MoE (thinker)",
        streams={
            "audio": Stream(
                "audio_token_id",
                "input_features",
                _of_qwen3,
                "model.audio_tower",
                _frames_of_qwen3,
            ),
            **seen(_clock),
        },
        turns=CHATML,
        delimiters=(
            *DELIMITERS,
            *("<|audio_start|>", "<|audio_end|>", "<|vision_start|>", "<|vision_end|>"),
        ),
        film=TWO_A_SECOND,
        audio_in_video=True,
    ),
)
