"""Which part of the picture a clip keeps: the mouth, a central box, everything, or a box given.

The mouth is found by landmarks where there are any, and below the face's box otherwise.

Reads the file twice, once to find the face and once to cut, so that a long video in high
definition never stands in memory.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import ArrayLike

from sinkscope.avsr.alignment import align, shrink_of, warp_mouth
from sinkscope.avsr.clip import FRAME_RATE, Crop
from sinkscope.avsr.decode import Decoder
from sinkscope.avsr.faces import find_faces_over_time, follow_face
from sinkscope.avsr.landmarks import find_landmarks, open_landmarks
from sinkscope.avsr.mouth import CROP_SIDE, crop_mouth, mouth_boxes
from sinkscope.avsr.picture import shown_pictures, steady_frames
from sinkscope.errors import InputError

__all__ = ["CROPS", "crop_by_landmarks", "crop_pictures"]

CROPS = ("auto", "face", "fixed", "none")
"""Ways to crop that have a name."""

FEWEST_SEEN = 1 / 3
"""Share of the frames in which a face must be seen to be believed."""

REPORTED_SEEN = 0.95
"""Below this share a note says that boxes are interpolated."""

SMALL_SIDE = 128
"""A picture no larger than this that shows no face is a mouth crop already."""

FIXED_SHARE = 0.5
"""Side of the fixed central box as a share of the picture's shorter side."""


class Cropped(NamedTuple):
    """Frames, how they were cropped (None without a picture), and what a reader must know."""

    frames: UInt8[np.ndarray, "frame 96 96"]
    crop: Crop | None
    notes: tuple[str, ...]


def crop_pictures(
    decoder: Decoder,
    *,
    crop: str | ArrayLike = "auto",
    origin: float | None = None,
) -> Cropped:
    """Decode the pictures of a file at 25 fps and crop each to 96 × 96.

    Args:
        decoder: of kind ``"video"``.
        crop: one of ``CROPS`` or boxes, as ``read_clip`` takes it.
        origin: second of the file's clock that counts as 0; the first picture's by default.

    Raises:
        InputError: ``crop`` is unknown, finds no face, or its boxes do not fit the frames.
    """
    if isinstance(crop, str) and crop not in CROPS:
        raise InputError(f"crop={crop!r} is unknown; choose one of {', '.join(CROPS)}, or boxes.")
    first = next(steady_frames(decoder, origin=origin), None)
    if first is None:
        return Cropped(np.zeros((0, CROP_SIDE, CROP_SIDE), np.uint8), None, ())
    if not isinstance(crop, str):
        method, boxes, detected, notes = "boxes given", _given(crop), 0.0, ()
    elif crop in ("auto", "face"):
        method, boxes, detected, notes = _follow(decoder, origin, first.shape, must=crop == "face")
    else:
        method, boxes, detected, notes = _central(first.shape, fixed=crop == "fixed")
    frames = _cut(decoder, origin, boxes)
    boxes = np.broadcast_to(boxes, (len(frames), 4)).astype(np.float32)
    return Cropped(frames, Crop(method, boxes, detected), notes)


def crop_by_landmarks(
    decoder: Decoder,
    landmarks: Any,
    *,
    origin: float | None = None,
    mean_face: ArrayLike | None = None,
) -> Cropped:
    """Decode the pictures of a file at 25 fps and cut out the mouth, upright and of one size.

    Args:
        decoder: of kind ``"video"``.
        landmarks: as ``open_landmarks`` takes it; one row for each picture of the file, or one for
            each frame at 25 fps.
        origin: second of the file's clock that counts as 0; the first picture's by default.
        mean_face: as ``align`` takes it.

    Raises:
        InputError: the landmarks cannot be read, are no face, or are not one a picture.
    """
    numbers, pictures = shown_pictures(decoder, origin=origin)
    if not numbers:
        return Cropped(np.zeros((0, CROP_SIDE, CROP_SIDE), np.uint8), None, ())
    given = open_landmarks(landmarks)
    if callable(given):
        marks = find_landmarks(steady_frames(decoder, origin=origin), given)
    elif len(given) == pictures:
        marks = given[numbers]
    elif len(given) == len(numbers):
        marks = given
    else:
        raise InputError(
            f"{decoder.path}: {len(given)} frames of landmarks are given for {pictures} pictures "
            f"({len(numbers)} at {FRAME_RATE} fps); give one row a picture, NaN where none is."
        )
    detected = float(np.mean(~np.isnan(marks[:, 0, 0])))
    try:
        alignment = align(marks, mean_face=mean_face)
    except InputError as error:
        raise InputError(f"{decoder.path}: {error}") from error
    shrink = shrink_of(alignment)
    images = steady_frames(decoder, origin=origin)
    frames = [
        warp_mouth(image, matrix, shrink=shrink)
        for image, matrix in zip(images, alignment.matrices, strict=True)
    ]
    notes = tuple(_face_notes(detected, alignment.cuts, "Landmarks are known"))
    return Cropped(np.stack(frames), Crop("landmarks", alignment.boxes, detected), notes)


Plan = tuple[str, np.ndarray, float, tuple[str, ...]]
"""Method, boxes (one for all frames, or one a frame), share detected, notes."""


def _follow(decoder: Decoder, origin: float | None, size: tuple[int, ...], *, must: bool) -> Plan:
    """Boxes below the face, or what stands in for it where there is none."""
    faces = follow_face(find_faces_over_time(steady_frames(decoder, origin=origin)))
    detected = float(np.mean(~np.isnan(faces[:, 0])))
    if detected >= FEWEST_SEEN:
        boxes, cuts = mouth_boxes(faces)
        return "face detector", boxes, detected, tuple(_face_notes(detected, cuts))
    if must:
        raise InputError(
            f"{decoder.path}: the detector sees a face in {detected:.0%} of the frames, too few to "
            "follow; use crop='fixed', crop='none' or boxes of your own."
        )
    if max(size) <= SMALL_SIDE:
        return _central(size, fixed=False)
    return _central(size, fixed=True, why="No face was found: the frames are")


def _face_notes(
    detected: float, cuts: list[int], seen: str = "The detector saw the face"
) -> list[str]:
    notes = []
    if detected < REPORTED_SEEN:
        notes.append(
            f"{seen} in {detected:.0%} of the frames; between them the mouth's place is "
            "interpolated."
        )
    if cuts:
        seconds = ", ".join(f"{frame / FRAME_RATE:.2f}" for frame in cuts)
        notes.append(f"The face jumps at {seconds} s, as at a cut between two shots.")
    return notes


def _central(size: tuple[int, ...], *, fixed: bool, why: str = "The frames are") -> Plan:
    """A square in the middle: half of the shorter side (``fixed``), or all of it."""
    height, width = size
    side = round(min(size) * (FIXED_SHARE if fixed else 1.0))
    box = np.array([(width - side) // 2, (height - side) // 2, side, side], np.float32)
    if not fixed:
        return "already a mouth crop", box, 0.0, ()
    where = f"a fixed box of {side} × {side} in the middle of {width} × {height} pixels"
    return "fixed box", box, 0.0, (f"{why} {where}, which may miss the mouth.",)


def _given(given: ArrayLike) -> Float32[np.ndarray, "*frame 4"]:
    boxes = np.asarray(given, np.float32)
    good = boxes.ndim in (1, 2) and boxes.shape[-1] == 4 and np.isfinite(boxes).all()
    if not good or (boxes[..., 2:] < 2).any():
        raise InputError(
            f"crop: boxes of shape {boxes.shape} are no boxes; give (4,) or (frame, 4) numbers: "
            "left, top, width, height in pixels, at least 2 wide and high."
        )
    return boxes


def _cut(
    decoder: Decoder, origin: float | None, boxes: np.ndarray
) -> UInt8[np.ndarray, "frame 96 96"]:
    images = steady_frames(decoder, origin=origin)
    if boxes.ndim == 1:
        return np.stack([crop_mouth(image, boxes) for image in images])
    frames = [crop_mouth(image, box) for box, image in zip(boxes, images, strict=False)]
    rest = sum(1 for _ in images)
    if len(frames) + rest != len(boxes):
        raise InputError(
            f"{decoder.path}: {len(boxes)} boxes are given for {len(frames) + rest} frames at "
            f"{FRAME_RATE} fps; give one box a frame, or one for all."
        )
    return np.stack(frames)
