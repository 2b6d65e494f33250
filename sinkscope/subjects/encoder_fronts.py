"""Which front end an encoder has, and what is more than an encoder."""

from typing import Any

from torch import nn

from sinkscope.avsr.encoders import Encoder
from sinkscope.errors import InputError, UnknownFamilyError
from sinkscope.subjects.anatomy import Anatomy
from sinkscope.subjects.encoder_anatomy import encoder_row
from sinkscope.subjects.fronts import Front, NoFront, WaveformFront, WhisperFront
from sinkscope.subjects.image_fronts import ImageFront

__all__ = ["front_of", "refuse_more"]

_PLACES = {
    "whisper": ("its get_encoder()",),
    "wavlm": ("its .wavlm", "WavLMModel"),
    "wav2vec2": ("its .wav2vec2", "Wav2Vec2Model"),
    "hubert": ("its .hubert", "HubertModel"),
    "clip": ("its .vision_model", "CLIPVisionModelWithProjection"),
    "siglip": ("its .vision_model",),
    "vit": ("its .vit",),
    "pe_audio": ("its .audio_encoder",),
    "pe_video": ("its .video_encoder",),
    "pe_audio_video": ("its .audio_video_encoder",),
}
"""Of families: where the encoder is in a larger model, and what else may be handed over."""


def refuse_more(model: nn.Module) -> None:
    """Refuse a model of transformers of which the encoder is only a part.

    Raises:
        UnknownFamilyError: if it is one; it says where the encoder is.
    """
    names = {kind.__name__ for kind in type(model).__mro__}
    for family, (part, *alone) in _PLACES.items():
        inside = type(model).__module__.startswith(f"transformers.models.{family}.")
        if inside and encoder_row(model) is None and not names & set(alone):
            raise UnknownFamilyError(
                f"{type(model).__name__} is more than an encoder, and only the encoder can be "
                f"studied here; hand over {part}."
            )


def front_of(
    model: Any, anatomy: Anatomy, name: str, *, processor: Any | None = None
) -> Front | ImageFront:
    """What makes an encoder's input of clips.

    Args:
        model: the encoder, with its front end where it has one.
        anatomy: of it.
        name: for messages.
        processor: of an encoder of images, for mean and deviation.

    Raises:
        InputError: if there is a processor that nobody would use.
    """
    if isinstance(model, Encoder):
        return model
    if anatomy.family in ("clip_vision", "siglip_vision", "vit"):
        return ImageFront(model, anatomy, processor)
    if processor is not None:
        raise InputError(
            f"{name} needs no processor; give clips, or what a processor returns as the data."
        )
    if anatomy.family in ("whisper", "voxtral"):
        return WhisperFront(model)
    if hasattr(getattr(model, "config", None), "conv_stride") and anatomy.decoder is not model:
        return WaveformFront(model)
    return NoFront(name, 25.0 if anatomy.family == "avhubert" else 50.0)
