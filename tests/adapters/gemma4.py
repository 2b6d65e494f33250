"""Tiny Gemma 4 models: a sound and a film with a padded picture; a sound and a picture."""

from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.adapters.perturb import Place
from tests.adapters.suite import Case, randomised

AUDIO, IMAGE, VIDEO = 90, 91, 92
OPEN_IMAGE, CLOSE_IMAGE, OPEN_AUDIO, CLOSE_AUDIO = 82, 83, 80, 81
IDS = {
    "audio_token_id": AUDIO,
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "boi_token_id": OPEN_IMAGE,
    "eoi_token_id": CLOSE_IMAGE,
    "boa_token_id": OPEN_AUDIO,
    "eoa_token_index": CLOSE_AUDIO,
}
MARKS = (
    *("<|audio|>", "<|image|>", "<|video|>"),
    *("<|image>", "<image|>", "<|audio>", "<audio|>"),
)
PATCH, POOL = 2, 2
TEXT: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "global_head_dim": 16,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"],
    "use_bidirectional_attention": "vision",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
PLAIN = {"hidden_size_per_layer_input": 0}
LAYERED = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 97}
SOUND: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "subsampling_conv_channels": [8, 8],
    "output_proj_dims": 32,
    "attention_chunk_size": 4,
    "attention_context_left": 5,
}
SIGHT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "patch_size": PATCH,
    "pooling_kernel_size": POOL,
    "position_embedding_size": 32,
}
UNIFIED_SIGHT: dict[str, Any] = {
    "patch_size": PATCH,
    "pooling_kernel_size": POOL,
    "mm_embed_dim": 32,
    "mm_posemb_size": 16,
    "output_proj_dims": 32,
}
UNIFIED, MELS = "gemma4_unified", 8


@cache
def model(name: str, *, layered: bool = False, processor: Any | None = None) -> nn.Module:
    """The tiny model; with a processor, of its vocabulary."""
    import transformers

    unified = name == UNIFIED
    stem = "Gemma4Unified" if unified else "Gemma4"
    text = TEXT | ({} if unified else LAYERED if layered else PLAIN)
    ids = IDS
    if processor is not None:
        known = processor.tokenizer.get_vocab()
        ids = {field: known[mark] for field, mark in zip(IDS, MARKS, strict=True)}
        text |= {"vocab_size": len(known)}
    config = getattr(transformers, f"{stem}Config")(
        text_config=text,
        audio_config={"audio_embed_dim": MELS, "output_proj_dims": MELS} if unified else SOUND,
        vision_config=UNIFIED_SIGHT if unified else SIGHT,
        **ids,
    )
    return randomised(getattr(transformers, f"{stem}ForConditionalGeneration")(config))


def places(rows: int, columns: int, room: int) -> torch.Tensor:
    """Column and row of each patch, row by row, filled up with -1."""
    row, column = np.indices((rows, columns)).reshape(2, -1)
    found = np.full((room, 2), -1)
    found[: rows * columns] = np.stack([column, row], axis=1)
    return torch.from_numpy(found)


def inputs(name: str) -> dict[str, Any]:
    """Sounds of 9 and 4 tokens, pictures of 2 x 3 and 2 x 1, a film of two frames of 1 x 2."""
    generator = torch.Generator().manual_seed(1)
    pool = 1 if name == UNIFIED else POOL
    every = 1 if name == UNIFIED else 4
    wide = 3 * (PATCH * POOL // pool) ** 2
    frame = [OPEN_IMAGE, *[VIDEO] * 2, CLOSE_IMAGE]
    first = [1, 5, OPEN_AUDIO, *[AUDIO] * 9, CLOSE_AUDIO, 31, *frame, 32, *frame]
    first += [OPEN_IMAGE, *[IMAGE] * 6, CLOSE_IMAGE, 8]
    second = [1, OPEN_IMAGE, *[IMAGE] * 2, CLOSE_IMAGE, OPEN_AUDIO, *[AUDIO] * 4, CLOSE_AUDIO, 7]
    ids = torch.zeros(2, len(first), dtype=torch.long)
    ids[0], ids[1, -len(second) :] = torch.tensor(first), torch.tensor(second)
    room, small = 8 * pool**2, 4 * pool**2
    mask = torch.arange(12 * every)[None] < torch.tensor([[9 * every - every // 2], [4 * every]])
    kinds = (ids == IMAGE).long() + 2 * (ids == VIDEO).long() + 3 * (ids == AUDIO).long()
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "mm_token_type_ids": kinds,
        "input_features": torch.randn(2, 12 * every, MELS, generator=generator),
        "input_features_mask": mask,
        "pixel_values": torch.rand(2, room, wide, generator=generator),
        "image_position_ids": torch.stack(
            [places(2 * pool, 3 * pool, room), places(2 * pool, pool, room)]
        ),
        "pixel_values_videos": torch.rand(2, small, wide, generator=generator),
        "video_position_ids": torch.stack([places(pool, 2 * pool, small)] * 2),
        "num_frames_per_video": torch.tensor([2]),
    }


def places_of(name: str) -> tuple[Place, ...]:
    """Patches in pictures of 3 and 1 columns of tokens, and the first frame of a token of sound."""
    pool, every = (1, 1) if name == UNIFIED else (POOL, 4)
    return (
        Place("pixel_values", (0, pool * 3 * pool + 2 * pool, 0), "image", {"row": 1, "column": 2}),
        Place("pixel_values", (1, pool * pool, 0), "image", {"item": 1, "row": 1, "column": 0}),
        Place("input_features", (0, 5 * every), "audio", {"second": 0.201}),
    )


CASES = tuple(
    Case(name, partial(model, name), partial(inputs, name), places=places_of(name))
    for name in ("gemma4", UNIFIED)
)
