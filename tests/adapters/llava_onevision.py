"""A tiny LLaVA-OneVision: a picture seen in detail with a film, and two pictures seen once."""

from functools import cache
from typing import Any

import torch
from torch import nn

from tests.adapters.perturb import Place
from tests.adapters.suite import QWEN2_TEXT, Case, randomised

IMAGE, VIDEO = 91, 92
PATCH, SIDE = 4, 3
"""Pixels of a patch; patches of a tile."""

VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": PATCH,
    "image_size": PATCH * SIDE,
    "vision_use_head": False,
}
SHAPES = [[12 * rows, 12 * columns] for rows in (1, 2) for columns in (1, 2, 3)]
"""Heights and widths in which a picture may be cut into tiles."""


@cache
def model(ratio: str = "anyres_max_9", processor: Any | None = None) -> nn.Module:
    """The tiny model; with a processor, of its vocabulary."""
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    words = len(processor.tokenizer) if processor is not None else QWEN2_TEXT["vocab_size"]
    config = LlavaOnevisionConfig(
        text_config=QWEN2_TEXT | {"vocab_size": words},
        vision_config=VISION,
        image_token_index=getattr(processor, "image_token_id", IMAGE),
        video_token_index=getattr(processor, "video_token_id", VIDEO),
        image_grid_pinpoints=SHAPES,
        vision_aspect_ratio=ratio,
    )
    return randomised(LlavaOnevisionForConditionalGeneration(config))


def inputs() -> dict[str, Any]:
    """Of 12 x 20 pixels: two tiles side by side, of which 3 x 4 patches show the picture."""
    generator = torch.Generator().manual_seed(1)
    detail = 9 + 3 * (4 + 1)
    film = 2 * 4 + 1
    first = [5, 6, *[IMAGE] * detail, 7, *[VIDEO] * film, 8]
    second = [9, *[IMAGE] * 10, 7, *[IMAGE] * 10, 8]
    ids = torch.zeros(2, len(first), dtype=torch.long)
    ids[0], ids[1, -len(second) :] = torch.tensor(first), torch.tensor(second)
    side = PATCH * SIDE
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "pixel_values": torch.randn(3, 3, 3, side, side, generator=generator),
        "image_sizes": torch.tensor([[12, 17], [12, 12], [10, 12]]),
        "batch_num_images": torch.tensor([1, 2]),
        "pixel_values_videos": torch.randn(1, 2, 3, side, side, generator=generator),
    }


PLACES = (
    Place("pixel_values", (1, 0, 0, 9, 2), "image", {"item": 1, "row": 2, "column": 0}),
    Place("pixel_values", (2, 0, 0, 5, 11), "image", {"item": 2, "row": 1, "column": 2}),
)
"""Pixels of the two pictures that are seen once."""

CASES = (Case("llava_onevision", model, inputs, places=PLACES),)
