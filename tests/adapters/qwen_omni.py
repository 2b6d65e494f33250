"""Tiny Qwen2.5-Omni and Qwen3-Omni-MoE thinkers: two samples with sounds, a picture and a film."""

from functools import cache, partial
from typing import Any

import torch
from torch import nn

from tests.adapters.perturb import Place
from tests.adapters.suite import Case, randomised

QWEN2, QWEN3 = "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"

TEXT: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "mlp_only_layers": [0],
}
AUDIO: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "num_mel_bins": 8,
    "output_dim": 32,
    "max_source_positions": 1500,
}
VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "num_heads": 4,
    "intermediate_size": 48,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 32,
}
AUDIO_ID, IMAGE_ID, VIDEO_ID = 90, 91, 92
IDS = {
    "audio_token_id": AUDIO_ID,
    "image_token_id": IMAGE_ID,
    "video_token_id": VIDEO_ID,
    "audio_start_token_id": 80,
    "audio_end_token_id": 81,
    "vision_start_token_id": 82,
    "vision_end_token_id": 83,
}
MARKS = {
    "audio_token_id": "audio_token",
    "image_token_id": "image_token",
    "video_token_id": "video_token",
    "audio_start_token_id": "audio_bos_token",
    "audio_end_token_id": "audio_eos_token",
    "vision_start_token_id": "vision_bos_token",
    "vision_end_token_id": "vision_eos_token",
}
"""What the processors call the same tokens."""
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10_000.0}

SOUNDS = {QWEN2: (40, 13, 22), QWEN3: (230, 25, 60)}
"""Log-mel frames of the sounds: two of the first sample, one of the second."""
PICTURE, FILM = (1, 4, 4), (2, 4, 8)
"""Frames, rows and columns of patches."""
FILM_STEP = 1.0
"""Seconds of two frames of the film."""


@cache
def thinker(name: str, processor: Any | None = None) -> nn.Module:
    """The tiny model; with a processor, of its vocabulary and the sizes of its patches."""
    ids, vocabulary, patch = IDS, 97, 4
    if processor is not None:
        words = processor.tokenizer
        ids = {
            field: words.convert_tokens_to_ids(getattr(processor, MARKS[field])) for field in IDS
        }
        vocabulary, patch = len(words), processor.video_processor.patch_size
    if name == QWEN2:
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Model

        own = {"fullatt_block_indexes": [1], "embed_dim": 32}
        text, audio, vision = TEXT, AUDIO | {"n_window": 8}, VISION | own
    else:
        from transformers import Qwen3OmniMoeThinkerForConditionalGeneration as Model

        own = {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
        audio = AUDIO | {"downsample_hidden_size": 4, "n_window_infer": 200}
        text, vision = TEXT | EXPERTS | {"head_dim": 8}, VISION | own
    kind: Any = Model.config_class
    config = kind(
        text_config=text | {"rope_parameters": ROPE, "vocab_size": vocabulary},
        audio_config=audio,
        vision_config=vision | {"patch_size": patch, "window_size": 4 * patch},
        position_id_per_seconds=25 if name == QWEN2 else 13,
        **ids,
    )
    return randomised(Model(config))


def tokens_of(name: str, mel: int) -> int:
    """Audio tokens of so many log-mel frames, counted by hand."""
    if name == QWEN2:
        return -(-mel // 2) // 2
    return 13 * (mel // 100) + -(-(mel % 100) // 8)


def inputs(name: str) -> dict[str, Any]:
    """A film, two sounds and text; a picture, a sound, text and padding."""
    generator = torch.Generator().manual_seed(1)
    sounds = [[80, *[AUDIO_ID] * tokens_of(name, mel), 81] for mel in SOUNDS[name]]
    film = [82, *[VIDEO_ID] * 16, 83]
    picture = [82, *[IMAGE_ID] * 4, 83]
    first = [5, 6, *film, *sounds[0], 7, *sounds[1], 7, 8]
    second = [9, *picture, *sounds[2], 7]
    ids = torch.zeros(2, len(first), dtype=torch.long)
    ids[0], ids[1, -len(second) :] = torch.tensor(first), torch.tensor(second)
    longest = max(SOUNDS[name])
    mel = torch.arange(longest)[None] < torch.tensor(SOUNDS[name])[:, None]
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "input_features": torch.randn(3, 8, longest, generator=generator),
        "feature_attention_mask": mel.long(),
        "pixel_values": torch.randn(16, 3 * 2 * 4 * 4, generator=generator),
        "image_grid_thw": torch.tensor([PICTURE]),
        "pixel_values_videos": torch.randn(64, 3 * 2 * 4 * 4, generator=generator),
        "video_grid_thw": torch.tensor([FILM]),
        "video_second_per_grid": torch.tensor([FILM_STEP]),
    }


def sound_of(name: str) -> Place:
    """A log-mel frame of which, through the convolutions, one token alone hears."""
    frame = 1 if name == QWEN2 else 0
    at = {"item": 1, "second": (frame + 0.5) / 100}
    return Place("input_features", (1, 0, frame), "audio", at)


PATCH = Place("pixel_values", (6, 0), "image", {"row": 0, "column": 1})
"""A patch of the second square of the picture."""

CASES = tuple(
    Case(
        name,
        partial(thinker, name),
        partial(inputs, name),
        between=name == QWEN3,
        places=(PATCH, sound_of(name)),
    )
    for name in (QWEN2, QWEN3)
)
