"""Gemma 3n. Formulas read in transformers 5.23.

Every sound has one number of tokens, and every picture one square of them. A sound's encoder takes
every fourth log-mel frame and gives every fourth of its own, 160 ms apart; what remains is filled
up with tokens that stand for no sound.
"""

from collections.abc import Mapping, Sequence
from math import isqrt, prod
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from sinkscope.errors import InputError
from sinkscope.subjects.multimodal.sounds import masked_frames
from sinkscope.subjects.multimodal.table import Composite, Given, Stream, StreamTokens, Turns

__all__ = ["COMPOSITES"]

MEL_STEP = 0.01
"""Seconds from one log-mel frame to the next (160 samples at 16 kHz)."""


def _audio(given: Given) -> StreamTokens:
    """The tokens of every sound; those that stand for none have no seconds."""
    config, mask = given.config.audio_config, given.inputs.get("input_features_mask")
    if mask is None:
        raise InputError(
            "Gemma 3n takes no notice of input_features without input_features_mask; give both, as "
            "its processor returns them."
        )
    strides = [int(stride[0]) for stride in config.sscp_conv_stride_size]
    every = prod(strides) * int(config.conf_reduction_factor)
    heard = _heard(mask.bool().cpu().numpy(), strides, int(config.conf_reduction_factor))
    count = int(given.config.audio_soft_tokens_per_image)
    if heard.shape[1] > count:
        raise InputError(
            f"The sounds make {heard.shape[1]} tokens each, but Gemma 3n has room for {count}; "
            "give shorter ones."
        )
    tokens = StreamTokens.of_frames([count] * len(heard), step=MEL_STEP * every)
    real = np.pad(heard, ((0, 0), (0, count - heard.shape[1]))).reshape(-1)
    seconds = np.where(real[:, None], tokens.seconds, np.nan)
    return StreamTokens(seconds, tokens.row, tokens.column, tokens.item)


def _frames(called: Mapping[str, Any], given: Given) -> Sequence[StreamTokens]:
    """The encoder's own frames, before it gives every fourth; its mask is true at padding."""
    strides = [int(stride[0]) for stride in given.config.audio_config.sscp_conv_stride_size]
    real = ~called["audio_mel_mask"].bool().cpu().numpy()
    return masked_frames(_heard(real, strides, 1), step=MEL_STEP * prod(strides))


def _heard(
    mask: Bool[np.ndarray, "item frame"], strides: list[int], every: int
) -> Bool[np.ndarray, "item token"]:
    """Which tokens of each sound begin at a log-mel frame that is real."""
    frames = mask.shape[1]
    for stride in strides:
        frames = -(-frames // stride)
    first: Int[np.ndarray, " token"] = np.arange(0, frames, every) * prod(strides)
    return mask[:, first.clip(max=mask.shape[1] - 1)]


def _image(given: Given) -> StreamTokens:
    count = int(given.config.vision_soft_tokens_per_image)
    side = isqrt(count)
    if side**2 != count:
        raise InputError(f"Gemma 3n: {count} tokens of a picture are no square, so have no rows.")
    pixels = given.inputs.get("pixel_values")
    if pixels is None:
        raise InputError(
            "Gemma 3n: how many pictures there are is known from pixel_values alone; give them to "
            "the forward, or to generate."
        )
    return StreamTokens.of_grids([(1, side, side)] * len(pixels))


COMPOSITES = (
    Composite(
        "gemma3n",
        "Gemma 3n",
        streams={
            "audio": Stream(
                "audio_token_id", "input_features", _audio, "model.audio_tower", _frames
            ),
            "image": Stream("image_token_id", "pixel_values", _image, "model.vision_tower"),
        },
        turns=Turns(named=("<start_of_turn>",), ends=("<end_of_turn>",)),
        delimiters=("boi_token_id", "eoi_token_id", "boa_token_id", "eoa_token_id"),
        notes="its picture encoder is not studied alone; of the 160 ms between two tokens of sound "
        "each hears the first 90 itself, and what was before through attention",
    ),
)
