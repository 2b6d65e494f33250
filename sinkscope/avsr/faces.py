"""Where the speaker's face is in every frame: OpenCV's Haar cascade, and one face followed.

The detector looks at each frame alone and may miss a face or see one in the background;
``follow_face`` links what it saw into tracks and keeps the speaker's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

__all__ = ["find_faces", "find_faces_over_time", "follow_face"]

WORKING_SIDE = 192
"""Pixels of the shorter side of the picture that the detector sees."""

SMALLEST_FACE = 0.12
"""Side of the smallest face looked for, as a share of the picture's shorter side."""

TRACKED_SIDE = 100
"""Pixels to which a face already found is shrunk before it is looked for again."""

FULL_SEARCH_FRAMES = 12
"""Frames from one search of the whole picture to the next, so that a new face is noticed."""

LOST_FRAMES = 25
"""A face that comes back within this many frames (a second) is the same face."""

SHORTEST_TRACK = 5
"""Frames that a second face must last to count where the speaker's is absent (after a cut)."""

_NO_FACE = np.zeros((0, 4), np.float32)


def find_faces(image: UInt8[np.ndarray, "height width"]) -> Float32[np.ndarray, "face 4"]:
    """Find frontal faces (Viola and Jones 2001, with OpenCV's trained cascade).

    Args:
        image: one grey picture of any size; it is looked at with a shorter side of 192 pixels.

    Returns:
        Left, top, width and height of each face in pixels of ``image``; no rows without a face.

    Examples:
        >>> find_faces(np.zeros((120, 160), np.uint8)).shape
        (0, 4)
    """
    scale = min(1.0, WORKING_SIDE / min(image.shape))
    smallest = max(20, round(SMALLEST_FACE * min(image.shape) * scale))
    return _detect(image, scale, smallest, max(image.shape))


def find_faces_over_time(
    images: Iterable[UInt8[np.ndarray, "height width"]],
) -> list[Float32[np.ndarray, "_ 4"]]:
    """Find the faces of every frame of a clip, several times faster than frame by frame.

    Between full searches, twice a second, the detector looks only around the faces of the frame
    before, at sizes near theirs; where it loses one, it searches that whole frame again.

    Args:
        images: grey pictures in order, all of one size.

    Returns:
        One array a frame, as ``find_faces`` returns it.
    """
    found: list[np.ndarray] = []
    previous = None
    for index, image in enumerate(images):
        if image is previous:
            found.append(found[-1])
            continue
        previous, known = image, found[-1] if found else _NO_FACE
        near = [_find_near(image, face) for face in known]
        sure = bool(near) and all(map(len, near)) and index % FULL_SEARCH_FRAMES > 0
        found.append(np.concatenate(near) if sure else find_faces(image))
    return found


def _find_near(image: np.ndarray, face: np.ndarray) -> Float32[np.ndarray, "face 4"]:
    """The same face in the next frame, or no row: at most one box, of about the same size."""
    left, top = np.maximum(face[:2] - 0.25 * face[2:], 0).astype(int)
    right, bottom = np.ceil(face[:2] + 1.25 * face[2:]).astype(int)
    scale = min(1.0, TRACKED_SIDE / float(face[2]))
    side = scale * float(face[2])
    boxes = _detect(image[top:bottom, left:right], scale, round(0.8 * side), round(1.25 * side))
    boxes = boxes[np.argsort(-boxes[:, 2], kind="stable")][:1]
    return boxes + np.array([left, top, 0, 0], np.float32)


def _detect(
    image: np.ndarray, scale: float, smallest: int, largest: int
) -> Float32[np.ndarray, "face 4"]:
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    faces = _cascade().detectMultiScale(
        small,
        scaleFactor=1.1,
        minNeighbors=4,
        minSize=(smallest, smallest),
        maxSize=(largest, largest),
    )
    return np.asarray(faces, np.float32).reshape(-1, 4) / np.float32(scale)


@lru_cache(maxsize=1)
def _cascade() -> cv2.CascadeClassifier:
    folder = Path(cv2.__file__).parent / "data"
    return cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_alt2.xml"))


@dataclass
class _Track:
    """One face over time."""

    frames: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)

    @property
    def score(self) -> float:
        """Area summed over the frames: large and lasting wins."""
        return float(np.sum(np.prod(np.array(self.boxes)[:, 2:], axis=1)))

    def continues(self, frame: int, box: np.ndarray) -> bool:
        """Whether the box can be this face: near in place, time and size, and not yet taken."""
        last, side = self.boxes[-1], self.boxes[-1][2]
        near = np.hypot(*(_centre(box) - _centre(last))) < 0.5 * side
        alike = 0.6 < box[2] / side < 1 / 0.6
        return bool(near and alike and 0 < frame - self.frames[-1] <= LOST_FRAMES)


def follow_face(
    found: Sequence[Float32[np.ndarray, "_ 4"]],
) -> Float32[np.ndarray, "frame 4"]:
    """Choose the speaker's face: the one with the largest area summed over the frames.

    Before it comes and after it goes, a face that is seen only then stands in if it lasts: another
    shot.

    Args:
        found: the faces of each frame, as ``find_faces`` returns them.

    Returns:
        Left, top, width, height per frame; NaN in frames where the detector did not see that face.

    Examples:
        >>> face, other = [10.0, 10, 50, 50], [90.0, 10, 20, 20]
        >>> follow_face([np.float32([other, face]), np.zeros((0, 4), np.float32)])
        array([[10., 10., 50., 50.], [nan, nan, nan, nan]], dtype=float32)
    """
    chosen = np.full((len(found), 4), np.nan, np.float32)
    for rank, track in enumerate(sorted(_link(found), key=lambda track: -track.score)):
        span = chosen[track.frames[0] : track.frames[-1] + 1]
        if rank == 0 or (len(track.frames) >= SHORTEST_TRACK and np.isnan(span).all()):
            chosen[track.frames] = track.boxes
    return chosen


def _link(found: Sequence[np.ndarray]) -> list[_Track]:
    tracks: list[_Track] = []
    for frame, boxes in enumerate(found):
        for box in boxes:
            open_tracks = [track for track in tracks if track.continues(frame, box)]
            if open_tracks:
                track = min(
                    open_tracks, key=lambda t: np.hypot(*(_centre(t.boxes[-1]) - _centre(box)))
                )
            else:
                track = _Track()
                tracks.append(track)
            track.frames.append(frame)
            track.boxes.append(box)
    return tracks


def _centre(box: np.ndarray) -> np.ndarray:
    return box[:2] + box[2:] / 2
