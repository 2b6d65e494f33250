"""Tiny random encoders of packed sequences, from configuration classes of transformers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

GRIDS = torch.tensor([[2, 8, 6], [1, 4, 4]])
"""Two videos: two pairs of frames of 8 × 6 patches, then one of 4 × 4."""

MEL = torch.tensor([34, 10])
"""Log-mel frames of two clips."""

AUDIO = ("qwen2_5_omni_audio", "qwen3_omni_moe_audio", "qwen3_asr")
VISION = (
    "qwen2_5_omni_vision",
    "qwen2_5_vl_vision",
    "qwen3_vl_vision",
    "qwen3_omni_moe_vision",
    "video_llama_3_vision",
)
PACKED = AUDIO + VISION
WINDOWED = ("qwen2_5_omni_vision", "qwen2_5_vl_vision")

_SOUND = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "num_mel_bins": 16,
    "output_dim": 24,
}
_DOWN = {"downsample_hidden_size": 4, "n_window": 50, "n_window_infer": 100}
_PICTURE = {
    "hidden_size": 32,
    "depth": 3,
    "num_heads": 4,
    "intermediate_size": 48,
    "out_hidden_size": 24,
    "patch_size": 2,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
}
_WINDOWS = {"window_size": 8, "fullatt_block_indexes": [1]}
_DEEP = {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}


@dataclass(frozen=True)
class Packed:
    """An encoder, its blocks, and the arguments of a forward."""

    model: nn.Module
    blocks: nn.ModuleList
    kwargs: dict[str, Any]

    def run(self) -> Tensor:
        with torch.no_grad():
            return self.model(**self.kwargs).last_hidden_state


@cache
def packed(name: str) -> Packed:
    """The shared random encoder of a family; treat it as read-only."""
    return build_packed(name)


def build_packed(name: str, *, scale: float = 0.3) -> Packed:
    """A fresh random encoder with weights large enough to matter; biases and norms too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, kwargs = _BUILDERS[name]()
        model = model.eval()
        with torch.no_grad():
            for key, weight in model.named_parameters():
                noise = torch.randn_like(weight) * scale
                small = "conv" in key or "patch_embed" in key
                weight.copy_(weight + noise if weight.ndim == 1 or small else noise)
    blocks: Any = model
    for part in ("encoder.layers" if name.startswith("video") else _LISTS[name in AUDIO]).split(
        "."
    ):
        blocks = getattr(blocks, part)
    return Packed(model, blocks, kwargs)


_LISTS = {True: "layers", False: "blocks"}


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def pixels(channels: int) -> Tensor:
    """Flat patches of the grids."""
    return noise(int(GRIDS.prod(1).sum()), channels)


def _sound() -> dict[str, Any]:
    return {"input_features": noise(16, int(MEL.sum())), "feature_lens": MEL}


def _qwen2_5_omni_audio() -> tuple[nn.Module, dict[str, Any]]:
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
        Qwen2_5OmniAudioEncoder,
        Qwen2_5OmniAudioEncoderConfig,
    )

    return Qwen2_5OmniAudioEncoder(Qwen2_5OmniAudioEncoderConfig(**_SOUND, n_window=8)), _sound()


def _qwen3_omni_moe_audio() -> tuple[nn.Module, dict[str, Any]]:
    from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import (
        Qwen3OmniMoeAudioEncoder,
        Qwen3OmniMoeAudioEncoderConfig,
    )

    config = Qwen3OmniMoeAudioEncoderConfig(**_SOUND, **_DOWN, conv_chunksize=2)
    mel = torch.tensor([230, 60])
    kwargs = {"input_features": noise(16, int(mel.sum())), "feature_lens": mel}
    return Qwen3OmniMoeAudioEncoder(config), kwargs


def _qwen3_asr() -> tuple[nn.Module, dict[str, Any]]:
    from transformers.models.qwen3_asr.modeling_qwen3_asr import (
        Qwen3ASREncoder,
        Qwen3ASREncoderConfig,
    )

    mask = torch.zeros(2, 300, dtype=torch.long)
    mask[0, :230], mask[1, :60] = 1, 1
    kwargs = {"input_features": noise(2, 16, 300), "input_features_mask": mask}
    return Qwen3ASREncoder(Qwen3ASREncoderConfig(**_SOUND, **_DOWN)), kwargs


def _qwen2_5_omni_vision() -> tuple[nn.Module, dict[str, Any]]:
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
        Qwen2_5OmniVisionEncoder,
        Qwen2_5OmniVisionEncoderConfig,
    )

    model = Qwen2_5OmniVisionEncoder(Qwen2_5OmniVisionEncoderConfig(**_PICTURE, **_WINDOWS))
    return model, {"hidden_states": pixels(24), "grid_thw": GRIDS}


def _qwen2_5_vl_vision() -> tuple[nn.Module, dict[str, Any]]:
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
        Qwen2_5_VisionTransformerPretrainedModel,
        Qwen2_5_VLVisionConfig,
    )

    config = Qwen2_5_VLVisionConfig(**_PICTURE, **_WINDOWS)
    model = Qwen2_5_VisionTransformerPretrainedModel(config)
    return model, {"hidden_states": pixels(24), "grid_thw": GRIDS}


def _qwen3_vl_vision() -> tuple[nn.Module, dict[str, Any]]:
    from transformers.models.qwen3_vl.modeling_qwen3_vl import (
        Qwen3VLVisionConfig,
        Qwen3VLVisionModel,
    )

    model = Qwen3VLVisionModel(Qwen3VLVisionConfig(**_PICTURE, **_DEEP))
    return model, {"hidden_states": pixels(24), "grid_thw": GRIDS}


def _qwen3_omni_moe_vision() -> tuple[nn.Module, dict[str, Any]]:
    from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import (
        Qwen3OmniMoeVisionEncoder,
        Qwen3OmniMoeVisionEncoderConfig,
    )

    model = Qwen3OmniMoeVisionEncoder(Qwen3OmniMoeVisionEncoderConfig(**_PICTURE, **_DEEP))
    return model, {"hidden_states": pixels(24), "grid_thw": GRIDS}


def _video_llama_3_vision() -> tuple[nn.Module, dict[str, Any]]:
    from transformers.models.video_llama_3.modeling_video_llama_3 import (
        VideoLlama3VisionConfig,
        VideoLlama3VisionModel,
    )

    config = VideoLlama3VisionConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        patch_size=2,
    )
    kwargs = {"pixel_values": pixels(12), "grid_thw": GRIDS, "merge_sizes": torch.tensor([2, 1])}
    return VideoLlama3VisionModel(config), kwargs


_BUILDERS: dict[str, Callable[[], tuple[nn.Module, dict[str, Any]]]] = {
    "qwen2_5_omni_audio": _qwen2_5_omni_audio,
    "qwen3_omni_moe_audio": _qwen3_omni_moe_audio,
    "qwen3_asr": _qwen3_asr,
    "qwen2_5_omni_vision": _qwen2_5_omni_vision,
    "qwen2_5_vl_vision": _qwen2_5_vl_vision,
    "qwen3_vl_vision": _qwen3_vl_vision,
    "qwen3_omni_moe_vision": _qwen3_omni_moe_vision,
    "video_llama_3_vision": _video_llama_3_vision,
}
