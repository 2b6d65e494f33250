"""A tiny Qwen2.5-Omni thinker: two samples, one with sound and film, one with sound alone."""

from functools import cache
from typing import Any

import torch
from torch import nn

from tests.adapters.suite import Case, randomised

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
AUDIO: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "num_mel_bins": 8,
    "n_window": 8,
    "output_dim": 32,
    "max_source_positions": 64,
}
VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "embed_dim": 32,
    "num_heads": 4,
    "intermediate_size": 48,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 16,
    "out_hidden_size": 32,
    "fullatt_block_indexes": [1],
}
IDS = {
    "audio_token_id": 90,
    "image_token_id": 91,
    "video_token_id": 92,
    "audio_start_token_id": 80,
    "audio_end_token_id": 81,
    "vision_start_token_id": 82,
    "vision_end_token_id": 83,
}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10_000.0}


@cache
def thinker() -> nn.Module:
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration
    from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
        Qwen2_5OmniThinkerConfig,
    )

    config = Qwen2_5OmniThinkerConfig(
        text_config=TEXT | {"rope_parameters": ROPE},
        audio_config=AUDIO,
        vision_config=VISION,
        **IDS,
    )
    return randomised(Qwen2_5OmniThinkerForConditionalGeneration(config))


def tokens_of(mel: int) -> int:
    """Audio tokens of so many mel frames, counted by hand: halved twice."""
    return ((mel - 1) // 2 + 1 - 2) // 2 + 1


def inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    film = [82] + [92] * 8 + [83]
    first = [5, 6, *film, 80, *[90] * tokens_of(40), 81, 7, 8]
    second = [9, 80, *[90] * tokens_of(22), 81, 7]
    ids = torch.zeros(2, len(first), dtype=torch.long)
    ids[0], ids[1, -len(second) :] = torch.tensor(first), torch.tensor(second)
    mask = (ids != 0).long()
    mel = torch.arange(48)[None] < torch.tensor([[40], [22]])
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "input_features": torch.randn(2, 8, 48, generator=generator),
        "feature_attention_mask": mel.long(),
        "pixel_values_videos": torch.randn(2 * 4 * 4, 3 * 2 * 4 * 4, generator=generator),
        "video_grid_thw": torch.tensor([[2, 4, 4]]),
        "video_second_per_grid": torch.tensor([1.0]),
    }


CASES = (Case("qwen2_5_omni_thinker", thinker, inputs),)
