"""Qwen2.5-Omni (its thinker). Formulas read in transformers 5.23."""

import numpy as np
from jaxtyping import Int

from sinkscope.subjects.multimodal.table import CHATML, Composite, Given, Stream, StreamTokens

__all__ = ["COMPOSITES"]

MEL_STEP = 0.01
"""Seconds from one mel frame to the next (160 samples at 16 kHz)."""


def _mel_lengths(given: Given) -> Int[np.ndarray, " item"]:
    """Mel frames of each sound, padding left out."""
    mask = given.inputs.get("feature_attention_mask")
    if mask is not None:
        return mask.sum(-1).cpu().numpy()
    return given.inputs["audio_feature_lengths"].cpu().numpy()


def _audio(given: Given) -> StreamTokens:
    """Two convolutions and a pooling make one token of four mel frames: 40 ms."""
    halved = (_mel_lengths(given) - 1) // 2 + 1
    return StreamTokens.of_frames(((halved - 2) // 2 + 1).tolist(), step=4 * MEL_STEP)


def _grids(given: Given, name: str) -> list[tuple[int, int, int]]:
    """Frames, rows and columns of tokens: patches, of which ``merge`` by ``merge`` are joined."""
    merge = given.config.vision_config.spatial_merge_size
    return [(t, h // merge, w // merge) for t, h, w in given.inputs[name].tolist()]


def _image(given: Given) -> StreamTokens:
    return StreamTokens.of_grids(_grids(given, "image_grid_thw"))


def _video(given: Given) -> StreamTokens:
    grids = _grids(given, "video_grid_thw")
    return StreamTokens.of_grids(
        grids, [_frame_times(given, i, n) for i, (n, _, _) in enumerate(grids)]
    )


def _frame_times(given: Given, item: int, frames: int) -> np.ndarray:
    """Start and end of each frame of tokens; NaN where the forward was not told the pace."""
    steps = given.inputs.get("video_second_per_grid")
    step = float("nan") if steps is None else float(steps[item])
    start = np.arange(frames) * step
    return np.stack([start, start + step], axis=1)


COMPOSITES = (
    Composite(
        "qwen2_5_omni_thinker",
        "Qwen2.5-Omni (thinker)",
        streams={
            "audio": Stream("audio_token_id", "input_features", _audio, "model.audio_tower"),
            "image": Stream("image_token_id", "pixel_values", _image, "model.visual"),
            "video": Stream("video_token_id", "pixel_values_videos", _video, "model.visual"),
        },
        turns=CHATML,
        delimiters=(
            "audio_start_token_id",
            "audio_end_token_id",
            "vision_start_token_id",
            "vision_end_token_id",
        ),
    ),
)
