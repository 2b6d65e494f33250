"""Tiny random encoders of transformers that stand alone, and arguments of their own forward."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

POST_NORM = ("wav2vec2", "hubert")
WAVEFORM = ("wav2vec2", "wav2vec2 stable", "hubert", "hubert stable")
IMAGE = ("clip", "siglip", "vit")
PE = ("pe_audio", "pe_video", "pe_audio_video")
MEL = ("qwen2_audio", "voxtral", "audioflamingo3")
ALONE = WAVEFORM + IMAGE + PE + MEL
MASKED = (*WAVEFORM, *PE, "qwen2_audio", "audioflamingo3")
SAMPLES = 2

_WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_PICTURE = _WIDTHS | {"intermediate_size": 48, "image_size": 12, "patch_size": 4}
_SOUND = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "num_mel_bins": 16,
    "max_source_positions": 12,
}
_PE = _WIDTHS | {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
_CODEC = {"model_type": "dac", "downsampling_ratios": [2, 4], "encoder_hidden_size": 4}


@dataclass(frozen=True)
class Alone:
    """An encoder, the list of its blocks, and the arguments of a forward of two samples."""

    model: nn.Module
    blocks: nn.ModuleList
    kwargs: dict[str, Any]
    masked: dict[str, Any]
    real: tuple[int, ...]

    def run(self, *, masked: bool = False) -> Tensor:
        with torch.no_grad():
            return self.model(**self.kwargs, **(self.masked if masked else {})).last_hidden_state


@cache
def alone(name: str) -> Alone:
    """The shared random encoder of a family; treat it as read-only."""
    return build_alone(name)


def build_alone(name: str) -> Alone:
    """A fresh random encoder with weights large enough to matter; biases and norms too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = _BUILDERS[name.removesuffix(" stable")](name)
        with torch.no_grad():
            for key, weight in built.model.named_parameters():
                noise = torch.randn_like(weight) * 0.3
                small = any(
                    part in key for part in ("conv", "feature_extractor", "patch_embed", "dac")
                )
                weight.copy_(weight + noise if weight.ndim == 1 else weight if small else noise)
    return built


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _waveform(name: str) -> Alone:
    import transformers

    kind = "Hubert" if name.startswith("hubert") else "Wav2Vec2"
    config = getattr(transformers, f"{kind}Config")(
        **_WIDTHS,
        intermediate_size=48,
        conv_dim=(8,) * 3,
        conv_kernel=(10, 3, 3),
        conv_stride=(5, 2, 2),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        do_stable_layer_norm=name.endswith("stable"),
        feat_extract_norm="layer",
        num_feat_extract_layers=3,
        vocab_size=11,
    )
    model = getattr(transformers, f"{kind}Model")(config).eval()
    mask = torch.ones(SAMPLES, 400, dtype=torch.long)
    mask[1, 300:] = 0
    sound = {"input_values": noise(SAMPLES, 400)}
    return Alone(model, model.encoder.layers, sound, {"attention_mask": mask}, (19, 14))


def _image(name: str) -> Alone:
    import transformers

    kind = {"clip": "CLIPVision", "siglip": "SiglipVision", "vit": "ViT"}[name]
    config = getattr(transformers, f"{kind}Config")(**_PICTURE)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    blocks = model.layers if name == "vit" else model.encoder.layers
    tokens = 9 if name == "siglip" else 10
    return Alone(model, blocks, {"pixel_values": noise(SAMPLES, 3, 12, 12)}, {}, (tokens, tokens))


def _pe(name: str) -> Alone:
    import transformers

    sound, film = noise(SAMPLES, 1, 80), noise(SAMPLES, 5, 3, 12, 12)
    heard, seen = torch.ones(SAMPLES, 80).bool(), torch.ones(SAMPLES, 5).bool()
    heard[1, 48:], seen[1, 3:] = False, False
    vision = transformers.ViTConfig(num_labels=7, **_PICTURE)
    audio = {"dac_config": _CODEC} | _PE
    if name == "pe_audio":
        model: Any = transformers.PeAudioEncoder(transformers.PeAudioEncoderConfig(**audio))
        kwargs, masked, real = {"input_values": sound}, {"padding_mask": heard}, (11, 7)
    elif name == "pe_video":
        model = transformers.PeVideoEncoder(_video_config(vision))
        kwargs, masked = {"pixel_values_videos": film}, {"padding_mask_videos": seen}
        real = (6, 4)
    else:
        both = {
            "audio_config": {"model_type": "pe_audio_encoder"} | audio,
            "video_config": _video_config(vision),
        }
        config = transformers.PeAudioVideoEncoderConfig(**both, **_PE)
        model = transformers.PeAudioVideoEncoder(config)
        kwargs = {"input_values": sound, "pixel_values_videos": film}
        masked, real = {"padding_mask": heard, "padding_mask_videos": seen}, (11, 7)
    return Alone(model.eval(), model.layers, kwargs, masked, real)


def _video_config(vision: Any) -> Any:
    """With a ViT in place of the model of timm, which is not installed."""
    import transformers

    config = transformers.PeVideoEncoderConfig(**_PE)
    config.vision_config = vision
    return config


def _mel(name: str) -> Alone:
    import transformers

    kind = {"qwen2_audio": "Qwen2Audio", "voxtral": "Voxtral", "audioflamingo3": "AudioFlamingo3"}
    sizes = dict(_SOUND)
    if name == "voxtral":
        sizes = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "num_mel_bins": 16,
            "max_source_positions": 12,
        }
    config = getattr(transformers, f"{kind[name]}EncoderConfig")(**sizes)
    model = getattr(transformers, f"{kind[name]}Encoder")(config).eval()
    kwargs, real = {"input_features": noise(SAMPLES, 16, 24)}, (12, 12)
    hidden = torch.zeros(SAMPLES, 1, 12, 12)
    hidden[1, :, :, 7:] = float("-inf")
    masked: dict[str, Any] = {"attention_mask": hidden} if name == "qwen2_audio" else {}
    if name == "audioflamingo3":
        mel = torch.ones(SAMPLES, 24, dtype=torch.long)
        kwargs["input_features_mask"] = mel
        short = mel.clone()
        short[1, 13:] = 0
        return _Refed(model, model.layers, kwargs, {"input_features_mask": short}, (12, 7))
    return Alone(model, model.layers, kwargs, masked, (12, 7) if masked else real)


class _Refed(Alone):
    """An encoder whose mask is always given."""

    def run(self, *, masked: bool = False) -> Tensor:
        with torch.no_grad():
            given = self.kwargs | (self.masked if masked else {})
            return self.model(**given).last_hidden_state


_BUILDERS: dict[str, Callable[[str], Alone]] = (
    dict.fromkeys(("wav2vec2", "hubert"), _waveform)
    | dict.fromkeys(IMAGE, _image)
    | dict.fromkeys(PE, _pe)
    | dict.fromkeys(MEL, _mel)
)
