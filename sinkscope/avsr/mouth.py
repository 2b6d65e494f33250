"""From face boxes to mouth crops: proportions, smoothing over time, cutting out.

The proportions are those of OpenCV's frontal-face box: the mouth's middle lies ``MOUTH_HEIGHT`` of
the box below its top, and the crop's side is ``MOUTH_SIDE`` of the box's. The crop then spans from
below the nose to the chin, as the 96 x 96 crops of lip-reading corpora do.
"""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

__all__ = ["CROP_SIDE", "crop_mouth", "mouth_boxes"]

CROP_SIDE = 96
"""Pixels of a mouth crop's side."""

MOUTH_HEIGHT = 0.79
"""Where the middle of the mouth lies, as a share of the face box's height from its top."""

MOUTH_SIDE = 0.5
"""Side of the mouth box as a share of the face box's."""

SMOOTHING_FRAMES = 2.0
"""Standard deviation, in frames, of the Gaussian that smooths the boxes after a median of 5."""

CUT = 0.5
"""A face that moves by more than this share of its side between two sightings is another shot."""


def mouth_boxes(
    faces: Float32[np.ndarray, "frame 4"],
) -> tuple[Float32[np.ndarray, "frame 4"], list[int]]:
    """Place a mouth box in every frame.

    Frames without a face take the place in between (at the ends, the nearest face's). Within a shot
    the boxes are smoothed over time and have one size, so that the scale is constant; nothing is
    smoothed across a cut.

    Args:
        faces: left, top, width, height of the speaker's face, NaN where it was not seen; at least
            one row is known.

    Returns:
        The boxes (left, top, width, height, square, whole pixels wide), and the frames at which a
        new shot begins.

    Examples:
        >>> boxes, cuts = mouth_boxes(np.float32([[100, 50, 80, 80]] * 3))
        >>> boxes[0].round(1), cuts
        (array([120. ,  93.2,  40. ,  40. ], dtype=float32), [])
    """
    cuts = _cuts(faces)
    shots = np.split(faces, cuts)
    return np.concatenate([_shot_boxes(shot) for shot in shots]), cuts


def crop_mouth(
    image: UInt8[np.ndarray, "height width"], box: Float32[np.ndarray, " 4"]
) -> UInt8[np.ndarray, "96 96"]:
    """Cut a square box out of a picture and bring it to 96 x 96 pixels.

    What lies outside of the picture repeats its border. A box that is the whole picture of that
    size leaves it as it is.

    Args:
        image: a grey picture.
        box: left, top, width, height; whole pixels wide and high, placed anywhere.
    """
    size = (int(box[2]), int(box[3]))
    centre = (float(box[0] + (size[0] - 1) / 2), float(box[1] + (size[1] - 1) / 2))
    patch = cv2.getRectSubPix(image, size, centre)
    shrinks = min(size) > CROP_SIDE
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(patch, (CROP_SIDE, CROP_SIDE), interpolation=how), np.uint8)


def _cuts(faces: np.ndarray) -> list[int]:
    """Frames whose face is far from where the last one was seen."""
    seen = np.flatnonzero(~np.isnan(faces[:, 0]))
    centres = faces[seen, :2] + faces[seen, 2:] / 2
    moved = np.hypot(*np.diff(centres, axis=0).T)
    return [int(frame) for frame in seen[1:][moved > CUT * faces[seen[:-1], 2]]]


def _shot_boxes(faces: np.ndarray) -> Float32[np.ndarray, "frame 4"]:
    seen = np.flatnonzero(~np.isnan(faces[:, 0]))
    every = np.arange(len(faces))
    centre_x, middle_y, face_side = (
        _smooth(np.interp(every, seen, series[seen]))
        for series in (
            faces[:, 0] + faces[:, 2] / 2,
            faces[:, 1] + faces[:, 3] / 2,
            faces[:, 2],
        )
    )
    mouth_y = middle_y + (MOUTH_HEIGHT - 0.5) * face_side
    side = np.full(len(faces), max(2, round(MOUTH_SIDE * float(np.median(face_side)))))
    return np.stack([centre_x - side / 2, mouth_y - side / 2, side, side], 1).astype(np.float32)


def _smooth(series: np.ndarray) -> np.ndarray:
    """Median of 5 frames against single jumps, then a Gaussian; ends are held."""
    padded = np.pad(series, 2, mode="edge")
    steady = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)
    reach = round(3 * SMOOTHING_FRAMES)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SMOOTHING_FRAMES) ** 2)
    return np.convolve(np.pad(steady, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
