"""The encoders by the names that a configuration calls them by."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sinkscope.avsr.encoders.encoder import Encoder
from sinkscope.avsr.encoders.tiny import TinyAudioEncoder, TinyVideoEncoder
from sinkscope.errors import CheckpointError

__all__ = ["KINDS", "build_encoder"]


def _whisper(**config: Any) -> Encoder:
    from sinkscope.avsr.encoders.whisper import WhisperEncoder

    return WhisperEncoder(**config)


def _wavlm(**config: Any) -> Encoder:
    from sinkscope.avsr.encoders.wavlm import WavLmEncoder

    return WavLmEncoder(**config)


def _avhubert(*streams: str, **config: Any) -> Encoder:
    from sinkscope.avsr.encoders.avhubert import AvHubertEncoder

    return AvHubertEncoder(streams, **config)


KINDS: Mapping[str, Callable[..., Encoder]] = {
    "tiny-audio": TinyAudioEncoder,
    "tiny-video": TinyVideoEncoder,
    "whisper": _whisper,
    "wavlm": _wavlm,
    "avhubert-audio": partial(_avhubert, "audio"),
    "avhubert-video": partial(_avhubert, "video"),
    "avhubert-both": partial(_avhubert, "audio", "video"),
}
"""What makes an untrained encoder of each kind from its configuration."""


def build_encoder(kind: str, config: Mapping[str, Any]) -> Encoder:
    """An untrained encoder of a kind.

    Args:
        kind: a key of `KINDS`.
        config: its arguments.

    Raises:
        CheckpointError: if the kind or an argument is not known.

    Example:
        >>> encoder = build_encoder("tiny-audio", {"width": 32, "depth": 2})
        >>> encoder.frame_rate, encoder.width
        (50.0, 32)
    """
    if kind not in KINDS:
        raise CheckpointError(f"There is no encoder {kind!r}; known are {', '.join(KINDS)}.")
    try:
        return KINDS[kind](**config)
    except TypeError as error:
        raise CheckpointError(
            f"Encoder {kind!r} cannot be built from its config: {error}."
        ) from error
