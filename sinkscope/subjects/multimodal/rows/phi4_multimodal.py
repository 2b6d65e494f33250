"""Phi-4-multimodal: sounds, and pictures in crops. Formulas read in transformers 5.23."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sinkscope.subjects.encoder_layouts import LONGEST
from sinkscope.subjects.multimodal.crops import Picture, patches_of, tokens_of
from sinkscope.subjects.multimodal.sounds import mel_step
from sinkscope.subjects.multimodal.table import Composite, Given, Stream, StreamTokens, Turns

__all__ = ["COMPOSITES"]


def _step(given: Given) -> float:
    """Seconds of a token: as many mel frames as the convolutions make one of."""
    return given.config.audio_config.time_reduction * mel_step(given)


def _audio(given: Given) -> StreamTokens:
    sizes = [int(size) for size in given.needed("audio_embed_sizes", "audio")]
    return StreamTokens.of_frames(sizes, step=_step(given))


def _audio_frames(called: Mapping[str, Any], given: Given) -> Sequence[StreamTokens]:
    """The frames of each sound, and of its padding: the mask, which is added, hides nothing.

    Those of the padding have no seconds. Above ``LONGEST`` the encoder runs over pieces, the last
    one filled up.
    """
    reduction = given.config.audio_config.time_reduction
    items, length = called["hidden_states"].shape[:2]
    frames = -(-int(length) // reduction)
    pieces = -(-frames // LONGEST)
    count = frames if pieces == 1 else LONGEST
    sizes = given.inputs.get("audio_embed_sizes", [frames] * items)
    found = []
    for item in range(items):
        whole = StreamTokens.of_frames([count * pieces], step=_step(given))
        whole = whole.until(int(sizes[item]))
        whole = replace(whole, item=np.full(len(whole), item, np.int64))
        found += [whole.take(np.arange(count) + piece * count) for piece in range(pieces)]
    return found


def _pictures(given: Given) -> list[Picture]:
    crop = given.config.vision_config.crop_size
    sizes = given.needed("image_sizes", "image").reshape(-1, 2).tolist()
    masks = given.needed("image_attention_mask", "image", entries=len(sizes))
    return [
        Picture(height // crop, width // crop, mask)
        for (height, width), mask in zip(sizes, masks.cpu().numpy().astype(bool), strict=True)
    ]


def _image(given: Given) -> StreamTokens:
    return tokens_of(_pictures(given))


def _image_frames(called: Mapping[str, Any], given: Given) -> Sequence[StreamTokens]:
    return patches_of(_pictures(given), crops=given.needed("image_pixel_values", "image").shape[1])


_PARTS = "model.embed_tokens_extend"

COMPOSITES = (
    Composite(
        "phi4_multimodal",
        "Phi-4-multimodal",
        streams={
            "image": Stream(
                "vision_config.image_token_id",
                "image_pixel_values",
                _image,
                f"{_PARTS}.image_embed.img_processor",
                _image_frames,
            ),
            "audio": Stream(
                "audio_config.audio_token_id",
                "audio_input_features",
                _audio,
                f"{_PARTS}.audio_embed.encoder",
                _audio_frames,
            ),
        },
        turns=Turns(
            direct={"<|system|>": "system", "<|user|>": "user", "<|assistant|>": "assistant"},
            ends=("<|end|>",),
        ),
        notes="A picture is seen in crops (view 1) and as a whole (view 0); rows and columns are "
        "those of the view. With sdpa attention and no padding in any crop, transformers' picture "
        "encoder is causal.",
    ),
)
