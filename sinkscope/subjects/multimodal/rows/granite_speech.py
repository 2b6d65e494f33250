"""Granite-Speech: a conformer, a Q-former that reads windows of its frames, and Granite.

Formulas read in transformers 5.23.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from sinkscope.subjects.multimodal.table import Composite, Given, Stream, StreamTokens, Turns

__all__ = ["COMPOSITES"]

FRAME = 0.02
"""Seconds of a frame: the feature extractor lays two mel frames of 10 ms side by side."""


def _audio(given: Given) -> StreamTokens:
    """The queries of window after window; each attends to its whole window, so it covers that."""
    config = given.config
    queries = config.window_size // config.downsample_rate
    parts = []
    for i, kept in enumerate(_kept(given, queries)):
        window = np.flatnonzero(kept) // queries
        start = window * config.window_size * FRAME
        seconds = np.stack([start, start + config.window_size * FRAME], axis=1)
        blank = np.full(len(window), np.nan)
        parts.append(StreamTokens(seconds, blank, blank, np.full(len(window), i, np.int64)))
    return StreamTokens.joined(parts)


def _kept(given: Given, queries: int) -> Bool[np.ndarray, "item token"]:
    """Which of the tokens that the projector makes of each sound reach the LLM."""
    mask = given.inputs.get("input_features_mask")
    if mask is not None:
        return mask.cpu().numpy().astype(bool)
    items, frames = given.needed("input_features", "audio").shape[:2]
    windows = -(-frames // given.config.window_size)
    return np.ones((items, windows * queries), bool)


def _frames(called: Mapping[str, Any], given: Given) -> Sequence[StreamTokens]:
    """The conformer's frames; it is not told which are padding and hears them all.

    Those of windows of which no token is kept have no seconds. Where in its last window a sound
    ends, the forward is not told.
    """
    items, frames = called["hidden_states"].shape[:2]
    size = given.config.window_size
    queries = size // given.config.downsample_rate
    kept = _kept(given, queries).sum(1) if "input_features" in given.inputs else [frames] * items
    found = []
    for i in range(items):
        tokens = StreamTokens.of_frames([frames], step=FRAME)
        tokens = tokens.until(-(-int(kept[i]) // queries) * size)
        found.append(replace(tokens, item=np.full(frames, i, np.int64)))
    return found


_STREAMS = {"audio": Stream("audio_token_id", "input_features", _audio, "model.encoder", _frames)}
_TURNS = Turns(
    named=("<|start_of_role|>",), until="", closed=("<|end_of_role|>",), ends=("<|end_of_text|>",)
)
_NOTES = (
    "A Q-former makes three tokens of each window of 0.3 s (by default); every one may draw on all "
    "of its window, so the three carry the window's seconds."
)

COMPOSITES = tuple(
    Composite(name, title, streams=_STREAMS, turns=_TURNS, notes=_NOTES)
    for name, title in (
        ("granite_speech", "Granite-Speech"),
        ("granite_speech_plus", "Granite-Speech Plus"),
    )
)
