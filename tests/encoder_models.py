"""Tiny random encoders of every family, and how each is run: no download."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

PRE_NORM = ("whisper", "wavlm", "avhubert")
POST_NORM = ("wavlm post-norm", "avhubert post-norm")
ENCODERS = PRE_NORM + POST_NORM
MASKED = ("wavlm", "avhubert", "wavlm post-norm", "avhubert post-norm")
FRAMES = 24


@dataclass(frozen=True)
class Built:
    """An encoder, its blocks, and a forward of some samples, of which some may be padded."""

    model: nn.Module
    blocks: nn.ModuleList
    run: Callable[[Tensor | None], Tensor]

    def norms(self, layer: int) -> tuple[nn.Module, nn.Module]:
        """The two norms of a block, in the order in which it runs them."""
        block: Any = self.blocks[layer]
        first = getattr(block, "self_attn_layer_norm", None) or block.layer_norm
        return first, block.final_layer_norm


@cache
def encoder(name: str) -> Built:
    """The shared random encoder of a family; treat it as read-only."""
    return build_encoder(name)


def build_encoder(name: str, *, seed: int = 0, scale: float = 0.3) -> Built:
    """A fresh random encoder with weights large enough to matter; biases and norms too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = _BUILDERS[name.removesuffix(" post-norm")](name)
        with torch.no_grad():
            for key, weight in built.model.named_parameters():
                if "conv" in key or "feature_extractor" in key:
                    continue
                noise = torch.randn_like(weight) * scale
                weight.copy_(weight + noise if weight.ndim == 1 else noise)
    return built


def real_frames(padding: bool, *, samples: int = 3) -> Tensor | None:
    """A mask of real frames, samples of different lengths; None without padding."""
    if not padding:
        return None
    mask = torch.ones(samples, FRAMES, dtype=torch.bool)
    for sample in range(samples):
        mask[sample, FRAMES - 4 * sample :] = False
    return mask


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _whisper(_: str) -> Built:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_ffn_dim=48,
        encoder_attention_heads=4,
        max_source_positions=FRAMES,
        num_mel_bins=20,
    )
    model = WhisperEncoder(config).eval()
    bands = _noise(3, 20, 2 * FRAMES)
    return Built(model, model.layers, lambda mask: model(bands).last_hidden_state)


def _wavlm(name: str) -> Built:
    from transformers import WavLMConfig, WavLMModel

    post = name.endswith("post-norm")
    config = WavLMConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        num_buckets=16,
        max_bucket_distance=20,
        do_stable_layer_norm=not post,
        feat_extract_norm="group" if post else "layer",
    )
    model = WavLMModel(config).eval()
    states = _noise(3, FRAMES, 32)
    return Built(
        model,
        model.encoder.layers,
        lambda mask: model.encoder(states.clone(), attention_mask=mask).last_hidden_state,
    )


def _avhubert(name: str) -> Built:
    from sinkscope.avsr.avhubert import AvHubert, AvHubertConfig

    config = AvHubertConfig(
        layers=2,
        width=32,
        ffn=48,
        heads=4,
        positions=8,
        position_groups=2,
        norm_first=not name.endswith("post-norm"),
        lora_rank=2,
    )
    model = AvHubert(config).eval()
    audio = _noise(3, FRAMES, 104)
    return Built(model, model.encoder.layers, lambda mask: model(audio=audio, mask=mask))


_BUILDERS = {"whisper": _whisper, "wavlm": _wavlm, "avhubert": _avhubert}
