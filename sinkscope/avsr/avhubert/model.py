"""AV-HuBERT (arXiv 2201.02184) in plain PyTorch, with the published names of its weights.

Only what a fine-tuned model uses: masking, modality dropout and the heads of pre-training are left
out, and the model never drops anything.

Example:
    >>> config = AvHubertConfig(layers=1, width=32, ffn=48, heads=2, positions=8, position_groups=2)
    >>> AvHubert(config).eval()(audio=torch.zeros(1, 5, 104)).shape
    torch.Size([1, 5, 32])
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sinkscope.avsr.avhubert.config import AvHubertConfig
from sinkscope.avsr.avhubert.frontend import VideoFeatures
from sinkscope.avsr.avhubert.transformer import EPS, Attention, Transformer
from sinkscope.errors import InputError

__all__ = ["AvHubert"]

SIDE = 88
"""Rows and columns of a picture."""


class AudioFeatures(nn.Module):
    """The linear layer from filterbank features to the transformer's width."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, width)

    def forward(
        self, audio: Float[Tensor, "sample frame features"]
    ) -> Float[Tensor, "sample frame width"]:
        """Features of each frame, of the transformer's width."""
        return self.proj(audio)


class AvHubert(nn.Module):
    """An AV-HuBERT encoder with random weights.

    Args:
        config: the sizes.
    """

    def __init__(self, config: AvHubertConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_extractor_audio = AudioFeatures(config.audio_features, config.width)
        self.feature_extractor_video = VideoFeatures(config.width)
        self.layer_norm = nn.LayerNorm(2 * config.width, eps=EPS)
        self.post_extract_proj = nn.Linear(2 * config.width, config.width)
        self.encoder = Transformer(config)

    def forward(
        self,
        *,
        video: Float[Tensor, "sample seen height width_seen"] | None = None,
        audio: Float[Tensor, "sample heard features"] | None = None,
        mask: Bool[Tensor, "sample frame"] | None = None,
        output_layer: int | None = None,
    ) -> Float[Tensor, "sample frame width"]:
        """Features at 25 frames a second.

        A stream that is absent is zero *after* its own features are made, before both are
        normalised together: an all-zero input is something else.

        Args:
            video: mouth crops of 88 x 88, grey, (x / 255 - 0.421) / 0.165.
            audio: filterbank features, normalised frame by frame.
            mask: True at real frames; None treats all as real, as the authors do.
            output_layer: stop after so many layers, without the last normalisation.

        Raises:
            InputError: neither stream is given, their numbers of frames or the mask's differ,
                pictures or features have another size, or there is no such layer.
        """
        self._refuse(video, audio, mask, output_layer)
        heard = None if audio is None else self.feature_extractor_audio(audio)
        seen = None if video is None else self.feature_extractor_video(video)
        fused = self.post_extract_proj(self.layer_norm(_side_by_side(heard, seen)))
        return self.encoder(fused, mask, output_layer=output_layer)

    def _refuse(
        self, video: Tensor | None, audio: Tensor | None, mask: Tensor | None, layer: int | None
    ) -> None:
        if video is not None and (video.ndim != 4 or video.shape[2:] != (SIDE, SIDE)):
            raise InputError(
                f"AV-HuBERT: video has shape {tuple(video.shape)}; give (sample, frame, {SIDE}, "
                f"{SIDE}), the middle of the mouth crops."
            )
        wanted = self.config.audio_features
        if audio is not None and (audio.ndim != 3 or audio.shape[2] != wanted):
            raise InputError(
                f"AV-HuBERT: audio has shape {tuple(audio.shape)}; give (sample, frame, {wanted})."
            )
        given = audio if video is None else video
        if mask is not None and given is not None and mask.shape != given.shape[:2]:
            raise InputError(
                f"AV-HuBERT: the mask has shape {tuple(mask.shape)}, the streams have "
                f"{tuple(given.shape[:2])}; give one value a frame."
            )
        if layer is not None and not 1 <= layer <= self.config.layers:
            raise InputError(
                f"AV-HuBERT has no layer {layer}; give 1 to {self.config.layers}, or None for all."
            )

    def set_attention(self, implementation: str) -> None:
        """Choose the attention function of every layer: ``"sdpa"`` or ``"eager"``.

        Raises:
            InputError: another name; the mask that is made here fits these two only.
        """
        if implementation not in ("sdpa", "eager"):
            raise InputError(
                f"AV-HuBERT has no attention {implementation!r}; choose 'sdpa' or 'eager'."
            )
        for module in self.modules():
            if isinstance(module, Attention):
                module.implementation = implementation


def _side_by_side(heard: Tensor | None, seen: Tensor | None) -> Tensor:
    """Sound first, then picture, along the features."""
    if heard is not None and seen is not None:
        if heard.shape[:2] != seen.shape[:2]:
            raise InputError(
                f"AV-HuBERT: {heard.shape[1]} frames of sound and {seen.shape[1]} of picture; cut "
                "both to one length."
            )
        return torch.cat([heard, seen], dim=-1)
    if heard is not None:
        return torch.cat([heard, torch.zeros_like(heard)], dim=-1)
    if seen is not None:
        return torch.cat([torch.zeros_like(seen), seen], dim=-1)
    raise InputError("AV-HuBERT was given neither sound nor picture; give one at least.")
