"""A mouth drawn from its four values: lips, teeth, tongue, on a face that differs by speaker.

Depends on numpy and OpenCV. Head drift, lighting, blur, noise and a passing hand or microphone
keep the picture from being easier than a camera's.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

__all__ = ["SIZE", "Face", "draw_mouth"]

SIZE = 96
"""Height and width of a frame, pixels."""

_FINE = 3  # bits of sub-pixel precision that OpenCV draws with
_POINTS = np.linspace(0, 2 * np.pi, 24, endpoint=False)


@dataclass(frozen=True)
class Face:
    """How a speaker's mouth region looks. Greys are 0 to 255, lengths pixels."""

    skin: float
    lips: float
    hole: float
    teeth: float
    half_width: float
    reach: float
    lip: float
    tilt: float
    center: tuple[float, float]
    drift: float
    blur: float
    noise: float
    light: float
    shade: float
    occlusion: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Face":
        """A face at random; the same generator state gives the same face."""
        skin = rng.uniform(70, 205)
        return cls(
            skin=skin,
            lips=skin * rng.uniform(0.55, 0.85),
            hole=rng.uniform(5, 35),
            teeth=min(250.0, skin * rng.uniform(1.0, 1.4) + 20),
            half_width=rng.uniform(19, 28),
            reach=rng.uniform(15, 24),
            lip=rng.uniform(3.0, 6.5),
            tilt=rng.normal(0, 0.05),
            center=(48 + rng.normal(0, 2.5), 48 + rng.normal(0, 2.5)),
            drift=rng.uniform(0.1, 0.5),
            blur=rng.uniform(0.3, 1.4),
            noise=rng.uniform(1, 7),
            light=rng.uniform(0.0, 0.08),
            shade=rng.uniform(-0.35, 0.35),
            occlusion=rng.uniform(0, 1),
        )


def draw_mouth(
    curve: Float64[np.ndarray, "frame 4"], face: Face, rng: np.random.Generator
) -> UInt8[np.ndarray, "frame 96 96"]:
    """Draw one frame for every row of opening, width, teeth and tongue."""
    count = len(curve)
    center = np.array(face.center) + _walk(rng, (count, 2), face.drift)
    light = 1 + _walk(rng, (count, 1), face.light)[:, 0]
    jitter = curve + rng.normal(0, 0.025, curve.shape)
    hidden = _occluded(count, face, rng)
    ramp = 1 + face.shade * np.linspace(-0.5, 0.5, SIZE, dtype=np.float32)[None, :]
    frames = np.empty((count, SIZE, SIZE), np.uint8)
    for index in range(count):
        picture = _paint(np.clip(jitter[index], 0, 1), face, center[index])
        if hidden[index]:
            top = int(face.center[1] + 4)
            cv2.rectangle(
                picture, (int(face.center[0]) - 6, top), (SIZE, SIZE), face.skin * 0.6, -1
            )
        picture = cv2.GaussianBlur(picture, (0, 0), face.blur) * (ramp * np.float32(light[index]))
        picture += rng.standard_normal(picture.shape, np.float32) * np.float32(face.noise)
        frames[index] = np.clip(picture, 0, 255).astype(np.uint8)
    return frames


def _paint(values: np.ndarray, face: Face, center: np.ndarray) -> np.ndarray:
    opening, width, teeth, tongue = values
    picture = np.full((SIZE, SIZE), face.skin, np.float32)
    half = face.half_width * (0.62 + 0.38 * width)
    gap = face.reach * opening * 0.5
    bulge = 1.35 - 0.35 * width  # rounded lips stand forward and look thicker
    _oval(picture, center, (half, gap + face.lip * bulge), face.tilt, face.lips)
    inner = (half * 0.82, max(gap, 0.7))
    down = np.array([0.0, gap * 0.5])
    _oval(picture, center, inner, face.tilt, face.hole)
    if gap > 1.5 and teeth > 0.05:
        strip = (inner[0] * 0.8, gap * 0.38 * teeth)
        _oval(picture, center - down, strip, face.tilt, face.teeth)
    if gap > 1.5 and tongue > 0.05:
        strip = (inner[0] * 0.55, gap * 0.40 * tongue)
        _oval(picture, center + down, strip, face.tilt, face.lips * 0.9)
    return picture


def _oval(
    picture: np.ndarray,
    center: np.ndarray,
    axes: tuple[float, float],
    tilt: float,
    grey: float,
) -> None:
    x, y = axes[0] * np.cos(_POINTS), axes[1] * np.sin(_POINTS)
    turned = np.stack([x * np.cos(tilt) - y * np.sin(tilt), x * np.sin(tilt) + y * np.cos(tilt)], 1)
    corners = np.round((turned + center) * 2**_FINE).astype(np.int32)
    cv2.fillPoly(picture, [corners], grey, lineType=cv2.LINE_AA, shift=_FINE)


def _walk(rng: np.random.Generator, shape: tuple[int, int], step: float) -> np.ndarray:
    """A random walk that is pulled back to 0, so that it wanders but does not leave."""
    walk = np.zeros(shape)
    steps = rng.normal(0, step, shape)
    for index in range(1, shape[0]):
        walk[index] = 0.95 * walk[index - 1] + steps[index]
    return walk


def _occluded(count: int, face: Face, rng: np.random.Generator) -> np.ndarray:
    """True for the frames behind a passing hand: up to 8 in one clip of ten."""
    hidden = np.zeros(count, bool)
    if face.occlusion > 0.9 and count > 8:
        start = int(rng.integers(0, count - 8))
        hidden[start : start + int(rng.integers(3, 9))] = True
    return hidden
