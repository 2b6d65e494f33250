"""Read what people have: any media file, or a sound and a picture file, as a ``Clip``.

Sound becomes mono at 16 kHz, pictures become mouth crops at 25 fps, both on one clock that starts
at 0 s with whichever comes first. What was done to the picture stands in ``clip.crop``; what a
reader must know about the file stands in ``clip.notes``.

```python
clip = read_clip("talk.mp4")
clip = read_clip("talk.mp4", landmarks="talk.npy")
clip = read_clip(("microphone.wav", "camera.mp4"), text="bin blue at f two now")
```
"""

from collections.abc import Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import ArrayLike

from sinkscope.avsr.clip import FRAME_RATE, SAMPLE_RATE, Clip
from sinkscope.avsr.crop import crop_by_landmarks, crop_pictures
from sinkscope.avsr.decode import Decoder
from sinkscope.avsr.landmarks import LandmarkModel
from sinkscope.avsr.sidecar import read_sidecar
from sinkscope.avsr.sound import Sound, decode_sound
from sinkscope.errors import InputError

__all__ = ["read_clip"]

PathOrPair = str | PathLike[str] | Sequence[str | PathLike[str]]

UNEQUAL_SECONDS = 0.2
"""Sound and picture whose lengths differ by more are reported."""

LATEST_SECONDS = 60.0
"""A stream that begins later than this after the other has broken time stamps, and is refused."""


def read_clip(
    source: PathOrPair,
    *,
    text: str | None = None,
    crop: str | ArrayLike = "auto",
    landmarks: str | PathLike[str] | ArrayLike | LandmarkModel | None = None,
    mean_face: ArrayLike | None = None,
) -> Clip:
    """Read a media file, or a sound file with a picture file, as a clip.

    Any container, codec, rate, size and channel count that FFmpeg knows will do. A file made by
    this package's synthetic corpus has a ``<stem>.json`` beside it with ``{"text": ...,
    "phonemes": [[label, start, end], ...]}``, which is read too; another JSON file is left alone.

    Sound and picture keep their own lengths. A file with only one of them gives a clip with None
    for the other.

    Args:
        source: a path, or a pair ``(sound, picture)`` of paths whose clocks both start at 0.
        text: what is said; goes before the text of a ``<stem>.json``.
        crop: ``"auto"``: the mouth below the face that the detector follows; a small picture
            without a face is taken for a mouth crop already; otherwise a fixed central box, and
            ``clip.crop`` and ``clip.notes`` say so. ``"face"``: as auto, but refuse a clip without
            a face. ``"fixed"``: the central box. ``"none"``: the whole picture (its central
            square). Or boxes of your own (left, top, width, height in pixels of the picture as it
            is shown), one for all frames or one a frame.
        landmarks: 68 points of the face for each picture, by which the mouth is kept upright,
            centred and of one size: a file (``.npy``, ``.npz``, ``.json``, ``.pkl``), an array
            (frame, 68, 2), or a model: a function from a grey picture (height, width) to (68, 2)
            points or None. They go before ``crop="auto"``; no other ``crop`` goes with them.
        mean_face: the face that landmarks are brought onto, (68, 2) points in pixels of the crop;
            ours by default, with one pixel a millimetre.

    Returns:
        The clip. Frames are 96 × 96, grey.

    Raises:
        InputError: a path is missing, empty or no media file; nothing in it decodes; ``crop`` is
            unknown or finds no face; the landmarks are damaged, no face or not one a picture; the
            ``<stem>.json`` is damaged.
    """
    _refuse_both(crop, landmarks, mean_face)
    sound_path, picture_path = _paths(source)
    alone = isinstance(source, str | PathLike)
    sound = decode_sound(sound_path)
    picture = Decoder(picture_path, "video")
    origin = _first_second(sound, picture) if alone else None
    if landmarks is None:
        frames, boxes, crop_notes = crop_pictures(picture, crop=crop, origin=origin)
    else:
        frames, boxes, crop_notes = crop_by_landmarks(
            picture, landmarks, origin=origin, mean_face=mean_face
        )
    waveform = _delay(sound, origin)
    if not alone:
        _refuse_missing_half(sound_path, waveform, picture_path, frames)
    if not len(waveform) and not len(frames):
        raise InputError(
            f"{picture_path} has neither sound nor picture that decodes: "
            f"{' '.join((*sound.notes, *picture.notes))} Give an audio or video file."
        )
    said, phonemes = read_sidecar(sound_path, picture_path)
    notes = (*sound.notes, *picture.notes, *crop_notes, *_unequal(waveform, frames))
    return Clip(
        waveform=waveform if len(waveform) else None,
        frames=frames if len(frames) else None,
        text=said if text is None else text,
        path=picture_path,
        crop=boxes,
        phonemes=phonemes,
        notes=tuple(dict.fromkeys(notes)),
    )


def _refuse_both(crop: Any, landmarks: Any, mean_face: Any) -> None:
    if landmarks is None and mean_face is not None:
        raise InputError("A mean_face is given without landmarks to bring onto it; give both.")
    if landmarks is not None and not (isinstance(crop, str) and crop == "auto"):
        raise InputError(f"Landmarks and crop={crop!r} are given; choose one of them.")


def _paths(source: PathOrPair) -> tuple[Path, Path]:
    """The sound's path and the picture's; the same twice for a single file."""
    if isinstance(source, str | PathLike):
        return Path(source), Path(source)
    if len(source) != 2:
        raise InputError(
            f"read_clip takes a path or a pair (sound, picture), and was given {len(source)} "
            "paths; read several clips one at a time."
        )
    return Path(source[0]), Path(source[1])


def _first_second(sound: Sound, picture: Decoder) -> float:
    """The second of the file's clock at which the first of its two streams begins."""
    starts = [sound.start] if len(sound.waveform) else []
    starts += [time for time, _ in islice(picture.frames(), 1)]
    if starts and max(starts) - min(starts) > LATEST_SECONDS:
        raise InputError(
            f"{picture.path}: sound and picture begin {max(starts) - min(starts):.0f} s apart by "
            "their time stamps; write the file again with a converter."
        )
    return min(starts, default=0.0)


def _delay(sound: Sound, origin: float | None) -> Float32[np.ndarray, " samples"]:
    """The waveform from the origin on: silence before a sound that begins later."""
    if origin is None or not len(sound.waveform):
        return sound.waveform
    silence = np.zeros(round((sound.start - origin) * SAMPLE_RATE), np.float32)
    return np.concatenate([silence, sound.waveform])


def _refuse_missing_half(
    sound_path: Path, waveform: np.ndarray, picture_path: Path, frames: np.ndarray
) -> None:
    """A pair promises both: the first file must sound and the second must show."""
    for path, stream, noun, other in (
        (sound_path, waveform, "sound", "picture"),
        (picture_path, frames, "picture", "sound"),
    ):
        if not len(stream):
            raise InputError(
                f"{path} has no {noun} that decodes, and is the {noun} file of a pair (sound, "
                f"picture); give another {noun} file, or the {other} file alone."
            )


def _unequal(
    waveform: Float32[np.ndarray, " samples"], frames: UInt8[np.ndarray, "frame height width"]
) -> list[str]:
    sound, picture = len(waveform) / SAMPLE_RATE, len(frames) / FRAME_RATE
    if not (sound and picture) or abs(sound - picture) <= UNEQUAL_SECONDS:
        return []
    return [f"The sound lasts {sound:.2f} s and the picture {picture:.2f} s; both are kept whole."]
