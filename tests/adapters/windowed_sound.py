"""Tiny models that hear windows of 0.48 s: one sound of two windows, two short ones, and text."""

from functools import cache
from typing import Any

import torch

from tests.adapters.qwen_omni import TEXT
from tests.adapters.suite import Case, randomised

MEL, BINS = 48, 8
AUDIO_ID, OPEN, CLOSE = 90, 80, 81
ENCODER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_mel_bins": BINS,
}
FILLED = ((48, 20), (33, 48))
"""Mel frames of each window: a sound of 48 + 20, then in the second sample sounds of 33 and 48."""
TEXTS = {"audioflamingo3": "qwen2", "musicflamingo": "qwen2", "glmasr": "llama", "voxtral": "llama"}
CLASSES = {
    "audioflamingo3": "AudioFlamingo3",
    "musicflamingo": "MusicFlamingo",
    "glmasr": "GlmAsr",
    "voxtral": "Voxtral",
}


def config_of(name: str, *, mel: int = MEL, vocabulary: int = 97) -> Any:
    from transformers import AutoConfig

    encoder = {
        "audioflamingo3": "audioflamingo3_encoder",
        "musicflamingo": "audioflamingo3_encoder",
    }
    audio = ENCODER | {"model_type": encoder.get(name, f"{name}_encoder")}
    longest = "max_position_embeddings" if name == "glmasr" else "max_source_positions"
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}
    marks = {"audio_bos_token_id": OPEN, "audio_eos_token_id": CLOSE}
    return AutoConfig.for_model(
        name,
        text_config=TEXT | {"model_type": TEXTS[name], "vocab_size": vocabulary},
        audio_config=audio | {longest: mel // 2},
        audio_token_id=AUDIO_ID,
        **(rope | marks if name == "musicflamingo" else {}),
    )


@cache
def model(name: str) -> Any:
    import transformers

    made = getattr(transformers, f"{CLASSES[name]}ForConditionalGeneration")
    return randomised(made(config_of(name)))


def tokens_of(name: str, mel: int) -> int:
    """Tokens of a window by hand: halved, then averaged in twos or stacked in fours."""
    if name == "voxtral":
        return MEL // 8
    return ((mel + 1) // 2) // (4 if name == "glmasr" else 2)


def inputs(name: str, *, left: bool = True) -> dict[str, Any]:
    """Two samples; the first is the shorter and padded."""
    generator = torch.Generator().manual_seed(1)
    counts = [[tokens_of(name, mel) for mel in sample] for sample in FILLED]
    runs = [[AUDIO_ID] * count for count in (sum(counts[0]), *counts[1])]
    first = [5, OPEN, *runs[0], CLOSE, 6, 7]
    second = [9, OPEN, *runs[1], CLOSE, 8, 11, 12, OPEN, *runs[2], CLOSE, 7, 5, 6, 13, 14]
    longest = max(len(first), len(second))
    ids = torch.zeros(2, longest, dtype=torch.long)
    for row, own in enumerate((first, second)):
        place = slice(longest - len(own), None) if left else slice(len(own))
        ids[row, place] = torch.tensor(own)
    given = {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "input_features": torch.randn(4, BINS, MEL, generator=generator),
    }
    if name != "voxtral":
        filled = torch.tensor(FILLED).reshape(-1, 1)
        given["input_features_mask"] = (torch.arange(MEL)[None] < filled).long()
    return given


CASES = tuple(
    Case(name, lambda name=name: model(name), lambda name=name: inputs(name)) for name in TEXTS
)
