"""Phi-4-multimodal: sounds, and pictures in crops. Formulas read in transformers 5.23."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sinkscope.subjects.multimodal.crops import Picture, patches_of, tokens_of
from sinkscope.subjects.multimodal.sounds import mel_step
from sinkscope.subjects.multimodal.table import Composite, Given, Stream, StreamTokens, Turns

__all__ = ["COMPOSITES"]

LONGEST = 500
"""Frames of the audio encoder above which it runs over pieces of that length."""


def _step(given: Given) -> float:
    """Seconds of a token: as many mel frames as the convolutions make one of."""
    return given.config.audio_config.time_reduction * mel_step(given)


def _audio(given: Given) -> StreamTokens:
    sizes = [int(size) for size in given.inputs["audio_embed_sizes"]]
    return StreamTokens.of_frames(sizes, step=_step(given))


def _audio_frames(called: Mapping[str, Any], given: Given) -> Sequence[StreamTokens]:
    """The frames of each sound, as long as it is; of a long one piece after piece."""
    reduction = given.config.audio_config.time_reduction
    features, mask = called["hidden_states"], called.get("mask")
    items, length = features.shape[:2]
    lengths = [length] * items if mask is None else mask.sum(1).tolist()
    frames = [-(-int(one) // reduction) for one in lengths]
    sounds = StreamTokens.of_frames(frames, step=_step(given))
    longest = -(-length // reduction)
    pieces = -(-longest // LONGEST) if longest > LONGEST else 1
    found = []
    for item in range(items):
        own = np.flatnonzero(sounds.item == item)
        found += [
            sounds.take(own[piece * LONGEST : (piece + 1) * LONGEST] if pieces > 1 else own)
            for piece in range(pieces)
        ]
    return found


def _pictures(given: Given) -> list[Picture]:
    crop = given.config.vision_config.crop_size
    sizes = given.inputs["image_sizes"].reshape(-1, 2).tolist()
    masks = given.inputs["image_attention_mask"].cpu().numpy().astype(bool)
    return [
        Picture(height // crop, width // crop, mask)
        for (height, width), mask in zip(sizes, masks, strict=True)
    ]


def _image(given: Given) -> StreamTokens:
    return tokens_of(_pictures(given))


def _image_frames(called: Mapping[str, Any], given: Given) -> Sequence[StreamTokens]:
    return patches_of(_pictures(given), crops=given.inputs["image_pixel_values"].shape[1])


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
        "those of the view.",
    ),
)
