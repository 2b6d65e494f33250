"""A clip as one turn of a conversation: what the model's own processor makes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from sinkscope.avsr.clip import FRAME_RATE, SAMPLE_RATE, Clip
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.subjects.clip_layouts import describe
from sinkscope.subjects.multimodal.table import Composite

__all__ = ["Asker", "check_options", "clips_of", "conversation", "described"]


@runtime_checkable
class Asker(Protocol):
    """Who asks a model about a clip: a ``MultimodalSubject``."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def composite(self) -> Composite: ...  # noqa: D102
    @property
    def processor(self) -> Any | None: ...  # noqa: D102
    @property
    def instruction(self) -> str: ...  # noqa: D102
    @property
    def streams(self) -> tuple[str, ...] | None: ...  # noqa: D102
    @property
    def audio_in_video(self) -> bool: ...  # noqa: D102
    @property
    def processing(self) -> Mapping[str, Any]: ...  # noqa: D102


def check_options(asker: Asker, streams: Sequence[str] | None, *, audio_in_video: bool) -> None:
    """Check how a model shall be given clips.

    Raises:
        InputError: no stream at all, one that the family does not have, or sound between frames
            where it cannot.
    """
    has = ", ".join(asker.composite.streams)
    if streams is not None and not len(streams):
        raise InputError(
            f"{asker.name}: streams is empty, so a clip would bring nothing; give some of {has}, "
            "or None for all."
        )
    odd = [name for name in streams or () if name not in asker.composite.streams]
    if odd:
        raise InputError(f"{asker.name} reads no stream {odd[0]!r}; it reads {has}.")
    if audio_in_video and not asker.composite.audio_in_video:
        raise InputError(
            f"{asker.composite.title} cannot lay the sound of a film between its frames; use "
            "audio_in_video=False."
        )


def conversation(asker: Asker, clip: Clip) -> Mapping[str, Any]:
    """What the processor makes of a clip's streams, followed by the instruction.

    The film is the clip's frames, grey in all three colours, at 25 a second; how many of them the
    model sees is the processor's choice, or the family's row says it. With ``audio_in_video`` the
    sound lies between the frames, and the film alone has a place in the text.

    Raises:
        InputError: without a processor; a clip that has none of the streams, or not both of those
            that are to lie between each other.
    """
    processor: Any = asker.processor
    if processor is None:
        raise InputError(
            f"{asker.name} has no processor, so it cannot read clips; load it with processor=, or "
            "give what its processor returns."
        )
    _refuse_silent(asker)
    media = _media(asker, clip)
    marked = [stream for stream in media if stream != "audio" or not asker.audio_in_video]
    content = [{"type": stream} for stream in marked]
    messages = [
        {"role": "user", "content": [*content, {"type": "text", "text": asker.instruction}]}
    ]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    given: dict[str, Any] = {"text": [text], "return_tensors": "pt"}
    if "audio" in media:
        given |= {"audio": [media["audio"]], "sampling_rate": SAMPLE_RATE}
    if "video" in media:
        given |= {"videos": [media["video"]], "video_metadata": [_metadata(media["video"])]}
        given |= {"return_metadata": True} | dict(asker.composite.film)
    if not asker.audio_in_video:
        return processor(**given | dict(asker.processing))
    given |= {"load_audio_from_video": True, "audio_from_video_indices": [0]}
    return processor(**given | dict(asker.processing)) | {"use_audio_in_video": True}


def described(layout: TokenLayout, clip: Clip) -> TokenLayout:
    """The layout with what the clip says of each token: loudness, silence, motion, phoneme."""
    return replace(layout, descriptors={**describe(clip, layout.seconds), **layout.descriptors})


def clips_of(data: Any) -> list[Clip] | None:
    """The clips; None where the data is something else.

    Raises:
        InputError: if the data mixes clips with something else.
    """
    if isinstance(data, Clip):
        return [data]
    if not isinstance(data, list | tuple) or not any(isinstance(one, Clip) for one in data):
        return None
    clips = [one for one in data if isinstance(one, Clip)]
    if len(clips) < len(data):
        raise InputError("The data mixes clips with something else; record one kind at a time.")
    return clips


def _refuse_silent(asker: Asker) -> None:
    """Refuse a processor that cannot write a conversation about a clip."""
    if asker.composite.by_hand:
        raise InputError(f"{asker.name} cannot read clips: {asker.composite.by_hand}.")
    processor: Any = asker.processor
    template = getattr(processor, "chat_template", None)
    if not hasattr(processor, "apply_chat_template") or template is None:
        raise InputError(
            f"The processor of {asker.name}, a {type(processor).__name__}, has no chat template, "
            "so how it is asked about a clip is not known; set processor.chat_template, or give "
            "what the processor returns."
        )


def _media(asker: Asker, clip: Clip) -> dict[str, np.ndarray]:
    """The clip's streams that the model reads, picture first as chat templates have it."""
    has: dict[str, Any] = {
        "video": None if clip.frames is None else _in_colour(clip.frames),
        "audio": clip.waveform,
    }
    wanted = tuple(asker.composite.streams) if asker.streams is None else asker.streams
    media = {name: data for name, data in has.items() if name in wanted and data is not None}
    if not media:
        raise InputError(
            f"{clip.name} has none of the streams {', '.join(wanted)} that {asker.name} is given."
        )
    if asker.audio_in_video and len(media) < 2:
        raise InputError(
            f"{clip.name} has no sound and picture that {asker.name} could lay between each other; "
            "give a clip and streams with both, or audio_in_video=False."
        )
    return media


def _in_colour(frames: UInt8[np.ndarray, "frame height width"]) -> np.ndarray:
    return np.repeat(frames[..., None], 3, axis=-1)


def _metadata(frames: np.ndarray) -> dict[str, Any]:
    return {
        "fps": float(FRAME_RATE),
        "total_num_frames": len(frames),
        "duration": len(frames) / FRAME_RATE,
    }
