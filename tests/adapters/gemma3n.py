"""A tiny Gemma 3n: a sound and a picture; a shorter sound.

Its picture encoder needs timm, so a convolution stands for it: a patch of the picture is a token.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tests.adapters.perturb import Place
from tests.adapters.suite import Case, randomised

AUDIO, IMAGE = 92, 84
SOFT_AUDIO, SIDE, PATCH = 4, 3, 4
TEXT: dict[str, Any] = {
    "vocab_size": 97,
    "vocab_size_per_layer_input": 97,
    "hidden_size": 32,
    "hidden_size_per_layer_input": 8,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "num_kv_shared_layers": 0,
    "laurel_rank": 4,
    "activation_sparsity_pattern": [0.5, 0.0],
    "altup_num_inputs": 3,
    "altup_active_idx": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SOUND: dict[str, Any] = {
    "vocab_size": 8,
    "vocab_offset": 89,
    "input_feat_size": 8,
    "hidden_size": 32,
    "conf_attention_chunk_size": 4,
    "conf_attention_context_left": 5,
    "conf_num_attention_heads": 4,
    "conf_num_hidden_layers": 2,
    "sscp_conv_channel_size": (8, 8),
}
SIGHT: dict[str, Any] = {"hidden_size": 16, "vocab_size": 8, "vocab_offset": 81}


class Patches(nn.Module):
    """What stands for the picture encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(3, SIGHT["hidden_size"], PATCH, stride=PATCH)

    def forward(self, pixel_values: Tensor, **_: Any) -> Any:
        return SimpleNamespace(last_hidden_state=self.weigh(pixel_values))


@cache
def model() -> nn.Module:
    from transformers import AutoModel, Gemma3nConfig, Gemma3nForConditionalGeneration

    config = Gemma3nConfig(
        text_config=TEXT,
        audio_config=SOUND,
        vision_config=SIGHT,
        audio_token_id=AUDIO,
        image_token_id=IMAGE,
        audio_soft_tokens_per_image=SOFT_AUDIO,
        vision_soft_tokens_per_image=SIDE**2,
        boi_token_id=82,
        eoi_token_id=83,
        boa_token_id=90,
        eoa_token_id=91,
    )
    own = AutoModel.from_config

    def made(part: Any, **options: Any) -> nn.Module:
        return Patches() if part is config.vision_config else own(part, **options)

    with patch.object(AutoModel, "from_config", made):
        return randomised(Gemma3nForConditionalGeneration(config))


def inputs() -> dict[str, Any]:
    """Of the four tokens of a sound, three and two stand for what is heard."""
    generator = torch.Generator().manual_seed(1)
    sound = [90, *[AUDIO] * SOFT_AUDIO, 91]
    first = [1, 5, *sound, 6, 82, *[IMAGE] * SIDE**2, 83, 7]
    second = [1, *sound, 8, 9]
    ids = torch.zeros(2, len(first), dtype=torch.long)
    ids[0], ids[1, -len(second) :] = torch.tensor(first), torch.tensor(second)
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "input_features": torch.randn(2, 45, 8, generator=generator),
        "input_features_mask": torch.arange(45)[None] < torch.tensor([[45], [20]]),
        "pixel_values": torch.randn(1, 3, SIDE * PATCH, SIDE * PATCH, generator=generator),
    }


CASES = (
    Case(
        "gemma3n",
        model,
        inputs,
        adding=(),
        active=0,
        swapped=("resid_pre", "resid_post"),
        places=(Place("pixel_values", (0, 0, 5, 8), "image", {"row": 1, "column": 2}),),
    ),
)
