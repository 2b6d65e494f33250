"""The table of encoders: where in a block each site lies. Plain data, no torch.

A row is known by the class that runs the blocks, not by a configuration: one configuration may
hold several encoders. It means what a decoder's row means, and says besides what the frames are.

Example:
    >>> row = next(row for (_, name), row in encoder_rows().items() if name == "CLIPVisionModel")
    >>> row.blocks, row.resid_mid, row.reads
    ('encoder.layers', 'layer_norm2', 'image')
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sinkscope.subjects.family import Family

__all__ = ["EncoderRow", "encoder_rows", "is_encoder"]


@dataclass(frozen=True)
class EncoderRow(Family):
    """A row of the table; see ``Family`` for what is not explained here.

    Attributes:
        causal: an encoder's queries see all keys, or those of their chunk.
        blocks: path of the list of blocks, from the class that the row is of.
        reads: what its tokens are made of: ``"audio"``, ``"video"``, ``"image"`` (images or the
            frames of a video) or ``"audiovisual"``; the module itself may say otherwise.
        packed: whether it runs several clips or images as one sequence without a sample axis, and
            calls its attention once for each chunk that sees itself only.
        layout: how its tokens lie (`encoder_layouts`); "" where they are frames side by side.
        maps: whether attention maps and what enters them can be read; ``maps_why`` says why not.
        maps_why: why not.

    A conformer has two half-steps of its MLP and a convolution, so that it lacks ``resid_mid`` and
    ``mlp_out``; what attention adds is exact.
    """

    model_type: str = ""
    causal: bool = False
    builtin: bool = True
    gate: str | None = None
    up: str | None = None
    reads: str = "audio"
    packed: bool = False
    layout: str = ""
    maps: bool = True
    maps_why: str = ""


_WHISPER = EncoderRow(
    "whisper", blocks="layers", resid_mid="final_layer_norm", mlp_out="fc2", down="fc2"
)
_WAVLM = replace(
    _WHISPER,
    model_type="wavlm",
    attention="attention",
    attn_out="attention",
    resid_mid="feed_forward",
    mlp_out="feed_forward",
    down="feed_forward.output_dense",
    mask="attention_mask",
)
_WAV2VEC2 = replace(_WAVLM, model_type="wav2vec2", requires={"adapter_attn_dim": None})
_STABLE = {"resid_mid": "final_layer_norm"}
_CLIP = EncoderRow(
    "clip_vision",
    blocks="encoder.layers",
    resid_mid="layer_norm2",
    down="mlp.fc2",
    reads="image",
    layout="class_and_patches",
)
_SIGLIP = replace(_CLIP, model_type="siglip_vision", layout="patches")
_VIT = replace(
    _CLIP,
    model_type="vit",
    blocks="layers",
    attention="attention",
    attn_out="attention",
    resid_mid="layernorm_after",
)
_PE = EncoderRow(
    "pe_audio",
    blocks="layers",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    mask="padding_mask",
    layout="class_and_frames",
)
_PACKED_AUDIO = replace(
    _WHISPER, packed=True, flat=("", "self_attn", "final_layer_norm", "fc2"), layout="packed_audio"
)
_PACKED_VISION = EncoderRow(
    "qwen2_5_vl_vision",
    blocks="blocks",
    attention="attn",
    attn_out="attn",
    resid_mid="norm2",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    reads="image",
    packed=True,
    flat=("", "attn", "norm2", "mlp", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    layout="packed_vision",
)
_UNGATED_VISION = replace(
    _PACKED_VISION,
    gate=None,
    up=None,
    down="mlp.linear_fc2",
    flat=("", "attn", "norm2", "mlp", "mlp.linear_fc2"),
)
_VIDEO_LLAMA = replace(
    _SIGLIP,
    model_type="video_llama_3_vision",
    packed=True,
    flat=("", "self_attn", "layer_norm2", "mlp", "mlp.fc2"),
    layout="packed_vision",
)
_CONFORMER = replace(
    _WHISPER,
    sites=("resid_pre", "attn_out", "resid_post"),
    also="has two half-steps of its MLP and a convolution",
    maps=False,
    maps_why="its attention adds terms of position inside, without transformers' interface",
)
_GRANITE = replace(
    _CONFORMER, model_type="granite_speech_encoder", attention="attn", attn_out="attn"
)
_GLMASR = replace(
    _WHISPER,
    model_type="glmasr_encoder",
    resid_mid="post_attention_layernorm",
    mlp_out="mlp",
    down="mlp.fc2",
    layout="halved_mel",
)
_CONVOLUTIONAL = replace(_WHISPER, blocks="blocks", sites=("resid_pre", "resid_post"), maps=False)

_TRANSFORMERS: dict[str, dict[str, EncoderRow]] = {
    "whisper": {"WhisperEncoder": _WHISPER},
    "wavlm": {
        "WavLMEncoder": _WAVLM,
        "WavLMEncoderStableLayerNorm": replace(_WAVLM, **_STABLE),
    },
    "wav2vec2": {
        "Wav2Vec2Encoder": _WAV2VEC2,
        "Wav2Vec2EncoderStableLayerNorm": replace(_WAV2VEC2, **_STABLE),
    },
    "hubert": {
        "HubertEncoder": replace(_WAV2VEC2, model_type="hubert"),
        "HubertEncoderStableLayerNorm": replace(_WAV2VEC2, model_type="hubert", **_STABLE),
    },
    "clip": {"CLIPVisionModel": _CLIP},
    "siglip": {"SiglipVisionModel": _SIGLIP},
    "vit": {"ViTModel": _VIT},
    "pe_audio": {"PeAudioEncoder": _PE},
    "pe_video": {
        "PeVideoEncoder": replace(
            _PE, model_type="pe_video", mask="padding_mask_videos", reads="video"
        )
    },
    "pe_audio_video": {
        "PeAudioVideoEncoder": replace(_PE, model_type="pe_audio_video", reads="audiovisual")
    },
    "qwen2_audio": {
        "Qwen2AudioEncoder": replace(_WHISPER, model_type="qwen2_audio", mask="attention_mask")
    },
    "voxtral": {"VoxtralEncoder": replace(_WHISPER, model_type="voxtral")},
    "audioflamingo3": {
        "AudioFlamingo3Encoder": replace(
            _WHISPER, model_type="audioflamingo3", mask="input_features_mask"
        )
    },
    "qwen2_5_omni": {
        "Qwen2_5OmniAudioEncoder": replace(_PACKED_AUDIO, model_type="qwen2_5_omni_audio"),
        "Qwen2_5OmniVisionEncoder": replace(_PACKED_VISION, model_type="qwen2_5_omni_vision"),
    },
    "qwen3_omni_moe": {
        "Qwen3OmniMoeAudioEncoder": replace(_PACKED_AUDIO, model_type="qwen3_omni_moe_audio"),
        "Qwen3OmniMoeVisionEncoder": replace(_UNGATED_VISION, model_type="qwen3_omni_moe_vision"),
    },
    "qwen3_asr": {"Qwen3ASREncoder": replace(_PACKED_AUDIO, model_type="qwen3_asr")},
    "qwen2_5_vl": {"Qwen2_5_VisionTransformerPretrainedModel": _PACKED_VISION},
    "qwen2_vl": {
        "Qwen2VisionTransformerPretrainedModel": replace(
            _UNGATED_VISION,
            model_type="qwen2_vl_vision",
            down="mlp.fc2",
            flat=("", "attn", "norm2", "mlp", "mlp.fc2"),
        )
    },
    "qwen3_vl": {"Qwen3VLVisionModel": replace(_UNGATED_VISION, model_type="qwen3_vl_vision")},
    "qwen3_vl_moe": {
        "Qwen3VLMoeVisionModel": replace(_UNGATED_VISION, model_type="qwen3_vl_moe_vision")
    },
    "video_llama_3": {"VideoLlama3VisionModel": _VIDEO_LLAMA},
    "glmasr": {"GlmAsrEncoder": _GLMASR},
    "granite_speech": {"GraniteSpeechCTCEncoder": _GRANITE},
    "granite_speech_plus": {
        "GraniteSpeechPlusCTCEncoder": replace(_GRANITE, model_type="granite_speech_plus_encoder")
    },
    "phi4_multimodal": {
        "Phi4MultimodalAudioModel": replace(
            _CONFORMER,
            model_type="phi4_multimodal_audio",
            blocks="encoders",
            layout="pieces",
            maps=True,
            maps_why="",
        ),
        "Phi4MultimodalVisionModel": replace(
            _SIGLIP, model_type="phi4_multimodal_vision", mask="patch_attention_mask"
        ),
    },
    "gemma3n": {
        "Gemma3nAudioEncoder": replace(
            _CONFORMER,
            model_type="gemma3n_audio",
            blocks="conformer",
            attention="attention",
            attn_out="attention.post_norm",
            mask="audio_mel_mask",
            layout="subsampled",
        )
    },
    "gemma4": {
        "Gemma4AudioModel": replace(
            _CONFORMER,
            model_type="gemma4_audio",
            attn_out="norm_post_attn",
            mask="attention_mask",
            layout="subsampled",
        )
    },
}

_OWN: dict[tuple[str, str], EncoderRow] = {
    ("sinkscope.avsr.avhubert.", "Transformer"): replace(
        _WHISPER, model_type="avhubert", mask="mask"
    ),
    ("sinkscope.avsr.encoders", "TinyAudioEncoder"): replace(
        _CONVOLUTIONAL, model_type="tiny-audio"
    ),
    ("sinkscope.avsr.encoders", "TinyVideoEncoder"): replace(
        _CONVOLUTIONAL, model_type="tiny-video", reads="video"
    ),
}


def encoder_rows() -> Mapping[tuple[str, str], EncoderRow]:
    """Every row, by the beginning of the module's file and the name of the class."""
    named = {
        (f"transformers.models.{place}.", name): row
        for place, rows in _TRANSFORMERS.items()
        for name, row in rows.items()
    }
    return named | _OWN


_HOLDERS = (
    "sinkscope.avsr.avhubert.",
    "sinkscope.avsr.encoders",
    "transformers.models.wavlm.",
    "transformers.models.whisper.",
    "transformers.models.wav2vec2.",
    "transformers.models.hubert.",
    "transformers.models.clip.",
    "transformers.models.siglip.",
    "transformers.models.vit.",
    "transformers.models.pe_audio.",
    "transformers.models.pe_video.",
    "transformers.models.pe_audio_video.",
)
"""Where the classes of encoders are defined, and of what holds one and no LLM."""


def is_encoder(module: object) -> bool:
    """Whether a module is an encoder, or holds one and no LLM.

    Example:
        >>> from transformers import SiglipVisionConfig, SiglipVisionModel
        >>> is_encoder(SiglipVisionModel(SiglipVisionConfig(hidden_size=8, intermediate_size=8,
        ...     num_hidden_layers=1, num_attention_heads=2)))
        True
    """
    kinds = type(module).__mro__
    names = [f"{kind.__module__}.{kind.__name__}" for kind in kinds]
    return any(name.startswith(_HOLDERS) for name in names) or any(
        kind.__name__ == name and kind.__module__.startswith(place)
        for kind in kinds
        for place, name in encoder_rows()
    )
