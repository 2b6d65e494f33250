"""Tiny Granite-Speech models: windows of 6 frames of which 3 tokens are made."""

from functools import cache
from typing import Any

import torch

from tests.adapters.perturb import Place
from tests.adapters.qwen_omni import TEXT
from tests.adapters.suite import Case, randomised

AUDIO_ID = 90
WINDOW, QUERIES = 6, 3
FRAMES = (15, 5, 11)
"""Frames of each sound: three windows in the first sample, one and two in the second."""
ENCODER: dict[str, Any] = {
    "input_dim": 8,
    "num_layers": 2,
    "hidden_dim": 32,
    "num_heads": 4,
    "output_dim": 10,
    "context_size": 8,
    "max_pos_emb": 16,
    "conv_kernel_size": 3,
}
QFORMER: dict[str, Any] = {
    "model_type": "blip_2_qformer",
    "hidden_size": 32,
    "encoder_hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "cross_attention_frequency": 1,
}
NAMES = {"granite_speech": "GraniteSpeech", "granite_speech_plus": "GraniteSpeechPlus"}


@cache
def model(name: str) -> Any:
    import transformers

    plus = name == "granite_speech_plus"
    config = getattr(transformers, f"{NAMES[name]}Config")(
        text_config=TEXT
        | {"model_type": "granite", "residual_multiplier": 0.5, "attention_multiplier": 0.3},
        encoder_config=ENCODER | ({"cat_hidden_layers": [1]} if plus else {}),
        projector_config=QFORMER | {"encoder_hidden_size": 64 if plus else 32},
        audio_token_index=AUDIO_ID,
        window_size=WINDOW,
        downsample_rate=WINDOW // QUERIES,
        has_lora_adapter=False,
    )
    made = getattr(transformers, f"{NAMES[name]}ForConditionalGeneration")
    return randomised(made(config))


def tokens_of(frames: int) -> int:
    """Three for each window, the last of which may be part-filled."""
    return QUERIES * ((frames + WINDOW - 1) // WINDOW)


def inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    runs = [[AUDIO_ID] * tokens_of(frames) for frames in FRAMES]
    first = [5, *runs[0], 6, 7]
    second = [9, 10, *runs[1], 8, 11, *runs[2], 7, 5, 6]
    ids = torch.zeros(2, len(second), dtype=torch.long)
    ids[0, -len(first) :], ids[1] = torch.tensor(first), torch.tensor(second)
    kept = torch.tensor([[tokens_of(frames)] for frames in FRAMES])
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "input_features": torch.randn(3, max(FRAMES), 8, generator=generator),
        "input_features_mask": torch.arange(tokens_of(max(FRAMES)))[None] < kept,
    }


PLACES = (
    Place("input_features", (0, 7), "audio", {"second": 0.15}),
    Place("input_features", (2, 6), "audio", {"item": 2, "second": 0.13}),
)
"""Frames of 20 ms: the three tokens of a window hear all of it."""

CASES = tuple(Case(name, lambda name=name: model(name), inputs, places=PLACES) for name in NAMES)
