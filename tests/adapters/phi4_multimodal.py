"""A tiny Phi-4-multimodal: crops of 4 x 4 patches, two pictures and three sounds."""

from functools import cache
from typing import Any

import torch

from tests.adapters.perturb import Place
from tests.adapters.qwen_omni import TEXT
from tests.adapters.suite import Case, randomised

IMAGE_ID, AUDIO_ID = 91, 90
PATCH, SIDE = 4, 4
CROP = PATCH * SIDE
REDUCTION = 8
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": CROP,
    "patch_size": PATCH,
    "crop_size": CROP,
    "image_token_id": IMAGE_ID,
}
AUDIO: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_blocks": 2,
    "num_attention_heads": 4,
    "ext_pw_out_channel": 32,
    "depthwise_separable_out_channel": 32,
    "input_size": 16,
    "bias_max_distance": 16,
    "nemo_conv_channels": 8,
    "audio_token_id": AUDIO_ID,
}
MEL = (24, 9, 17)
"""Mel frames of each sound: one in the first sample, two in the second."""


@cache
def model() -> Any:
    found = made()
    # Asked for states after a plain forward with a picture, transformers hooks the vision blocks
    # twice and then fails; asked first, it hooks them once.
    with torch.no_grad():
        found(**inputs(), output_hidden_states=True)
    return found


def made(*, audio_id: int = AUDIO_ID, vocabulary: int = 97) -> Any:
    """A fresh model."""
    from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM

    parts = {"vision_config": VISION, "audio_config": AUDIO | {"audio_token_id": audio_id}}
    fields: Any = TEXT | parts | {"vocab_size": vocabulary}
    config = Phi4MultimodalConfig(**fields, original_max_position_embeddings=64)
    return randomised(Phi4MultimodalForCausalLM(config))


def masks() -> torch.Tensor:
    """A picture of two crops side by side, of which the last two columns are padding, and one of
    two crops one below the other, of which the last two rows are; the first crop is the whole."""
    found = torch.ones(2, 3, SIDE, SIDE)
    found[0, 2, :, 2:] = 0
    found[1, 2, 2:, :] = 0
    return found


TOKENS = (2 * (3 + 1) + 1 + 2 * (2 + 1), 3 * (2 + 1) + 1 + 2 * (2 + 1))
"""Tokens of the two pictures: rows of the crops with their ends, a mark, the whole."""


def inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    pictures = [[IMAGE_ID] * count for count in TOKENS]
    sounds = [[AUDIO_ID] * ((mel + 7) // REDUCTION) for mel in MEL]
    first = [5, *pictures[0], 6, *sounds[0], 7]
    second = [9, *sounds[1], 10, *pictures[1], 8, 11, *sounds[2], 7, 5]
    longest = max(len(first), len(second))
    ids = torch.zeros(2, longest, dtype=torch.long)
    ids[0, -len(first) :], ids[1, -len(second) :] = torch.tensor(first), torch.tensor(second)
    mel = torch.arange(max(MEL))[None] < torch.tensor(MEL)[:, None]
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "image_pixel_values": torch.randn(2, 3, 3, CROP, CROP, generator=generator),
        "image_sizes": torch.tensor([[CROP, 2 * CROP], [2 * CROP, CROP]]),
        "image_attention_mask": masks(),
        "audio_input_features": torch.randn(3, max(MEL), 16, generator=generator),
        "audio_embed_sizes": torch.tensor([(one + 7) // REDUCTION for one in MEL]),
        "audio_attention_mask": mel,
    }


PLACES = (
    Place("image_pixel_values", (0, 1, 0, 9, 1), "image", {"row": 1, "column": 0, "view": 1}),
    Place(
        "image_pixel_values",
        (1, 2, 0, 1, 9),
        "image",
        {"item": 1, "row": 2, "column": 1, "view": 1},
    ),
)
"""Pixels of the left crop of the first picture, of the lower crop of the second."""

CASES = (Case("phi4_multimodal", model, inputs, places=PLACES),)
