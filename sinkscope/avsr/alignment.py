"""From face landmarks to mouth crops that stay upright, centred and of one size.

The steps are Auto-AVSR's (arXiv 2303.14307): points that hold still while one
speaks are brought onto a mean face by the best similarity (turn, scale, shift), the landmarks being
smoothed over a window of 12 frames, and 96 × 96 pixels around the mouth are cut out.

The mean face is our own: adult proportions in whole millimetres, after published averages of face
measurements (Farkas, *Anthropometry of the Head and Face*, 1994), seen from the front; the crop has
one pixel a millimetre. A model trained on crops made with another mean face sees mouths of another
size: give that face as ``mean_face``.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Complex128, Float, Float32, Float64, UInt8
from numpy.typing import ArrayLike

from sinkscope.avsr.mouth import CROP_SIDE
from sinkscope.errors import InputError

__all__ = [
    "MEAN_FACE",
    "MOUTH",
    "STABLE",
    "WINDOW",
    "Alignment",
    "align",
    "shrink_of",
    "warp_mouth",
]

STABLE = (28, 33, 36, 39, 42, 45, 48, 54)
"""Landmarks that the mouth moves little: nose bridge, below the nose, corners of eyes and mouth."""

MOUTH = slice(48, 68)
"""Landmarks around whose mean the crop is centred."""

WINDOW = 12
"""Frames over which a face's shape is averaged."""

CUT = 0.5
"""A face that moves by more than this share of its own width between sightings is another shot."""

WORST_FIT = 0.5
"""Share of the mean face that the stable points must explain, in the clip's median frame."""

MEAN_FACE: Float64[np.ndarray, "8 2"] = np.array(
    [
        (0, 11),  # 28: on the bridge, a third of the way from between the eyes to the tip
        (0, 47),  # 33: where the nose meets the upper lip
        (-45, 0),  # 36: corners of the eyes, 90 mm apart outside
        (-16, 0),  # 39: and 32 mm inside
        (16, 0),  # 42
        (45, 0),  # 45
        (-26, 70),  # 48: corners of the mouth, 52 mm apart
        (26, 70),  # 54
    ],
    np.float64,
)
"""The stable points of the mean face: millimetres right of and below the middle of the eyes."""


class Alignment(NamedTuple):
    """Where the crop lies in every frame.

    Attributes:
        matrices: from a pixel (x, y, 1) of the picture to one of the crop.
        boxes: left, top, width, height of an upright square of the crop's centre and size.
        cuts: frames at which a new shot begins.
    """

    matrices: Float64[np.ndarray, "frame 2 3"]
    boxes: Float32[np.ndarray, "frame 4"]
    cuts: list[int]


def align(
    marks: Float[np.ndarray, "frame 68 2"], *, mean_face: ArrayLike | None = None
) -> Alignment:
    """Find the crop of every frame from its landmarks.

    Frames without landmarks lie between their neighbours; at the ends of a shot they keep the
    nearest. Nothing is smoothed or bridged across a cut.

    Args:
        marks: x and y of the 68 points in pixels, NaN in frames without a face; one row is known.
        mean_face: another mean face, (68, 2) points or the 8 of ``STABLE``, at the crop's scale.

    Raises:
        InputError: the points are no face in the order of the 68-point scheme, or the mean face
            has another shape.
    """
    reference = _reference(mean_face)
    cuts = _cuts(marks)
    shots = np.split(marks.astype(np.float64), cuts)
    steady = np.concatenate([_smooth(_bridge(shot)) for shot in shots])
    scale_and_turn = _similarity(steady, reference)
    centres = steady[:, MOUTH].mean(axis=1)
    matrices = _matrices(scale_and_turn, centres)
    side = CROP_SIDE / np.abs(scale_and_turn)[:, None]
    boxes = np.concatenate([centres - (side - 1) / 2, side, side], axis=1).astype(np.float32)
    return Alignment(matrices, boxes, cuts)


def warp_mouth(
    image: UInt8[np.ndarray, "height width"],
    matrix: Float64[np.ndarray, "2 3"],
    *,
    shrink: int = 1,
) -> UInt8[np.ndarray, "96 96"]:
    """Cut the mouth out of a picture, with one interpolation.

    What lies outside of the picture repeats its border.

    Args:
        image: a grey picture.
        matrix: from its pixels to the crop's, as `align` gives it.
        shrink: whole number by which a large picture is averaged down first, so that nothing
            finer than a pixel of the crop flickers in it.
    """
    matrix = matrix.copy()
    if shrink > 1:
        height, width = (side // shrink for side in image.shape)
        whole = image[: height * shrink, : width * shrink]
        image = np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA))
        matrix[:, 2] += matrix[:, :2].sum(axis=1) * (shrink - 1) / 2
        matrix[:, :2] *= shrink
    grows = np.hypot(*matrix[:, 0]) > 1
    how = cv2.INTER_CUBIC if grows else cv2.INTER_LINEAR
    size = (CROP_SIDE, CROP_SIDE)
    cut = cv2.warpAffine(image, matrix, size, flags=how, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, np.uint8)


def shrink_of(alignment: Alignment) -> int:
    """How much larger than the crop the mouth is in the clip's median frame, a whole number."""
    return max(1, int(np.median(alignment.boxes[:, 2]) / CROP_SIDE))


def _reference(mean_face: ArrayLike | None) -> Float64[np.ndarray, "8 2"]:
    points = MEAN_FACE if mean_face is None else np.asarray(mean_face, np.float64)
    points = points[list(STABLE)] if points.shape == (68, 2) else points
    if points.shape != MEAN_FACE.shape or not np.isfinite(points).all():
        raise InputError(
            f"mean_face: found {points.shape} numbers; give (68, 2) points, or the {len(STABLE)} "
            f"points {', '.join(map(str, STABLE))} of them."
        )
    return points


def _cuts(marks: np.ndarray) -> list[int]:
    """Frames whose face is far from where the last one was seen."""
    seen = np.flatnonzero(~np.isnan(marks[:, 0, 0]))
    moved = np.hypot(*np.diff(marks[seen].mean(axis=1), axis=0).T)
    widths = np.ptp(marks[seen][:-1, :, 0], axis=1)
    return [int(frame) for frame in seen[1:][moved > CUT * widths]]


def _bridge(marks: np.ndarray) -> Float64[np.ndarray, "frame 68 2"]:
    """Missing frames as straight lines between known ones."""
    seen = np.flatnonzero(~np.isnan(marks[:, 0, 0]))
    places = np.interp(np.arange(len(marks)), seen, np.arange(len(seen)))
    before = np.floor(places).astype(int)
    after = np.minimum(before + 1, len(seen) - 1)
    share = (places - before)[:, None, None]
    return (1 - share) * marks[seen[before]] + share * marks[seen[after]]


def _smooth(marks: np.ndarray) -> Float64[np.ndarray, "frame 68 2"]:
    """The mean shape over the window around each frame, put where the frame's own face is.

    At the ends of a shot the window is narrower, so that it stays symmetric.
    """
    frames = np.arange(len(marks))
    reach = np.minimum(np.minimum(frames, frames[::-1]), WINDOW // 2)
    sums = np.concatenate([np.zeros((1, *marks.shape[1:])), np.cumsum(marks, axis=0)])
    mean = (sums[frames + reach + 1] - sums[frames - reach]) / (2 * reach + 1)[:, None, None]
    return mean + (marks - mean).mean(axis=1, keepdims=True)


def _similarity(marks: np.ndarray, reference: np.ndarray) -> Complex128[np.ndarray, " frame"]:
    """Scale and turn of each frame, as a complex number, that best fit the stable points.

    With points as complex numbers around their mean, z in the picture and w on the mean face, the
    least squares of a z - w have a = Σ conj(z) w / Σ |z|².
    """
    points = _complex(marks[:, list(STABLE)])
    points = points - points.mean(axis=1, keepdims=True)
    face = _complex(reference - reference.mean(axis=0))
    spread = np.square(np.abs(points)).sum(axis=1)
    shared = (points.conj() * face).sum(axis=1)
    fit = np.square(np.abs(shared)) / np.maximum(spread * np.square(np.abs(face)).sum(), 1e-12)
    if np.median(fit) < WORST_FIT or (fit < 1e-6).any():
        raise InputError(
            "The landmarks are no face in the order of the 68-point scheme: their stable points "
            f"explain {np.median(fit):.0%} of the mean face; check their order and axes."
        )
    return shared / spread


def _matrices(scale_and_turn: np.ndarray, centres: np.ndarray) -> Float64[np.ndarray, "frame 2 3"]:
    """Turn and scale around the mouth, which comes to the middle of the crop."""
    along, across = np.real(scale_and_turn), np.imag(scale_and_turn)
    turn = np.stack([along, -across, across, along], axis=1).reshape(-1, 2, 2)
    shift = (CROP_SIDE - 1) / 2 - np.einsum("fij,fj->fi", turn, centres)
    return np.concatenate([turn, shift[..., None]], axis=2)


def _complex(points: np.ndarray) -> np.ndarray:
    return points[..., 0] + 1j * points[..., 1]
