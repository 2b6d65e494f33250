"""A tiny VideoLLaMA 3: a film of which some tokens are left out with a picture; a picture."""

from functools import cache
from typing import Any

import torch
from torch import nn

from tests.adapters.perturb import Place
from tests.adapters.suite import QWEN2_TEXT, Case, randomised

IMAGE, VIDEO = 91, 92
PATCH, MERGE = 4, 2

VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": PATCH,
}
PICTURES = torch.tensor([[1, 2, 3], [1, 4, 4]])
FILMS = torch.tensor([[3, 4, 6]])
KEPT = [True] * 6 + [False, True, True, False, False, True] + [True] + [False] * 5
"""Which tokens of the film's three frames of 2 x 3 the LLM receives."""


@cache
def model(processor: Any | None = None) -> nn.Module:
    """The tiny model; with a processor, of its vocabulary."""
    from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration

    words = len(processor.tokenizer) if processor is not None else QWEN2_TEXT["vocab_size"]
    config = VideoLlama3Config(
        text_config=QWEN2_TEXT | {"vocab_size": words},
        vision_config=VISION,
        image_token_id=getattr(processor, "image_token_id", IMAGE),
        video_token_id=getattr(processor, "video_token_id", VIDEO),
    )
    return randomised(VideoLlama3ForConditionalGeneration(config))


def inputs() -> dict[str, Any]:
    """The first picture's patches are tokens themselves, four of the second's make one."""
    generator = torch.Generator().manual_seed(1)
    film = [31, *[VIDEO] * 6, 32, *[VIDEO] * 3, 33, VIDEO]
    first = [5, 6, *film, 7, *[IMAGE] * 6, 8]
    second = [9, *[IMAGE] * 4, 7, 8]
    ids = torch.zeros(2, len(first), dtype=torch.long)
    ids[0], ids[1, -len(second) :] = torch.tensor(first), torch.tensor(second)
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "pixel_values": torch.randn(22, 3 * PATCH**2, generator=generator),
        "image_grid_thw": PICTURES,
        "image_merge_sizes": torch.tensor([1, 2]),
        "pixel_values_videos": torch.randn(72, 3 * PATCH**2, generator=generator),
        "video_grid_thw": FILMS,
        "video_merge_sizes": torch.tensor([MERGE]),
        "video_compression_mask": torch.tensor(KEPT),
    }


PLACES = (
    Place("pixel_values", (5, 0), "image", {"row": 1, "column": 2}),
    Place("pixel_values", (6 + 9, 0), "image", {"item": 1, "row": 1, "column": 0}),
)
"""The last patch of the first picture; one of the third square of the second."""

CASES = (Case("video_llama_3", model, inputs, places=PLACES),)
