"""Tiny Qwen2-VL, Qwen2.5-VL and Qwen3-VL: two samples, with films and pictures."""

from functools import cache, partial
from typing import Any

import torch
from torch import nn

from tests.adapters.perturb import Place
from tests.adapters.suite import Case, randomised

IMAGE, VIDEO, OPEN, CLOSE = 91, 92, 82, 83
IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": OPEN,
    "vision_end_token_id": CLOSE,
}
MARKS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
TEXT: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "rope_parameters": {
        "rope_type": "default",
        "mrope_section": [1, 1, 2],
        "rope_theta": 10_000.0,
    },
}
VISION: dict[str, Any] = {
    "depth": 2,
    "num_heads": 4,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
WIDE: dict[str, Any] = VISION | {
    "hidden_size": 32,
    "out_hidden_size": 32,
    "intermediate_size": 48,
}
DEEP = WIDE | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen2_vl": ("Qwen2VL", VISION | {"embed_dim": 32, "hidden_size": 32}, {}),
    "qwen2_5_vl": ("Qwen2_5_VL", WIDE | {"window_size": 16, "fullatt_block_indexes": [1]}, {}),
    "qwen3_vl": ("Qwen3VL", DEEP, {}),
    "qwen3_vl_moe": ("Qwen3VLMoe", DEEP, EXPERTS),
}
"""Of each family, how its classes begin, its encoder and what its LLM has besides."""

PICTURES = torch.tensor([[1, 4, 8], [1, 4, 4]])
FILMS = torch.tensor([[2, 4, 6]])


@cache
def model(name: str, processor: Any | None = None) -> nn.Module:
    """The tiny model; with a processor, of its vocabulary."""
    import transformers

    stem, vision, text = FAMILIES[name]
    ids = IDS
    if processor is not None:
        known = processor.tokenizer.get_vocab()
        ids = {field: known[mark] for field, mark in zip(IDS, MARKS, strict=True)}
        text = text | {"vocab_size": len(known)}
    config = getattr(transformers, f"{stem}Config")(
        text_config=TEXT | text, vision_config=vision, **ids
    )
    return randomised(getattr(transformers, f"{stem}ForConditionalGeneration")(config))


def inputs(name: str) -> dict[str, Any]:
    """A film of 2 x (2 x 3) tokens and a picture of 2 x 4; a picture of 2 x 2 and padding."""
    generator = torch.Generator().manual_seed(1)
    picture = [OPEN, *[IMAGE] * 8, CLOSE]
    film = [OPEN, *[VIDEO] * 12, CLOSE]
    if name.startswith("qwen3"):
        film = [31, OPEN, *[VIDEO] * 6, CLOSE, 32, OPEN, *[VIDEO] * 6, CLOSE]
    first = [5, 6, *film, 7, *picture, 8]
    second = [9, OPEN, *[IMAGE] * 4, CLOSE, 7, 8]
    ids = torch.zeros(2, len(first), dtype=torch.long)
    ids[0], ids[1, -len(second) :] = torch.tensor(first), torch.tensor(second)
    given = {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "pixel_values": torch.randn(48, 3 * 2 * 4 * 4, generator=generator),
        "image_grid_thw": PICTURES,
        "pixel_values_videos": torch.randn(48, 3 * 2 * 4 * 4, generator=generator),
        "video_grid_thw": FILMS,
        "mm_token_type_ids": (ids == IMAGE).long() + 2 * (ids == VIDEO).long(),
    }
    return given | ({"second_per_grid_ts": torch.tensor([0.5])} if name == "qwen2_5_vl" else {})


PLACES = (
    Place("pixel_values", (6, 0), "image", {"row": 0, "column": 1}),
    Place("pixel_values", (32 + 9, 0), "image", {"item": 1, "row": 1, "column": 0}),
)
"""A patch of the second square of the first picture, of the third of the second."""

CASES = tuple(
    Case(
        name,
        partial(model, name),
        partial(inputs, name),
        between=name.startswith("qwen3"),
        places=PLACES,
    )
    for name in FAMILIES
)
