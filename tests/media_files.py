"""Media files made for tests, whose sound is known and whose brightness tells the time."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

GREY_A_SECOND = 110.0
"""A picture's grey level is 10 + 110 × the second at which it is first shown."""


def clock_pictures(times, *, size=(64, 48)):
    """Flat pictures (height, width) whose grey level is the time."""
    width, height = size
    return [np.full((height, width), round(10 + GREY_A_SECOND * t), np.uint8) for t in times]


def seconds_shown(frames):
    """The seconds that clock pictures tell."""
    return (frames.reshape(len(frames), -1).mean(axis=1) - 10) / GREY_A_SECOND


def chirp(seconds, rate, *, start=0.0):
    """A tone that rises from 200 to 3,000 Hz in 3 s, so that a shift or a wrong rate shows."""
    t = start + np.arange(round(seconds * rate)) / rate
    return 0.4 * np.sin(2 * np.pi * (200 * t + 466.0 * t**2))


def correlation(waveform, *, start=0.0):
    """Correlation, sample by sample, with the chirp as it would be at 16 kHz."""
    expected = chirp(len(waveform) / 16_000, 16_000, start=start)
    return float(np.corrcoef(waveform, expected)[0, 1])


@dataclass
class Movie:
    """What goes into a file; ``write`` muxes it."""

    pictures: list = field(default_factory=list)
    times: list = field(default_factory=list)
    sound: np.ndarray | None = None
    rate: int = 48_000
    layout: str = "mono"
    video_codec: str = "libx264"
    audio_codec: str = "aac"
    pix_fmt: str = "yuv420p"
    sound_start: float = 0.0
    options: dict = field(default_factory=dict)
    sample_format: str = "fltp"
    rotation: int = 0
    frame_rate: Fraction | int = 25
    pixel_aspect: Fraction | int = 1

    def write(self, path):
        with av.open(str(path), "w", options=self.options) as container:
            video = self._video_stream(container) if self.pictures else None
            audio = None
            if self.sound is not None:
                audio = container.add_stream(self.audio_codec, rate=self.rate)
                audio.layout, audio.format = self.layout, self.sample_format
            if video:
                self._write_pictures(container, video)
            if audio:
                self._write_sound(container, audio)
        return Path(path)

    def _video_stream(self, container):
        height, width = self.pictures[0].shape
        stream = container.add_stream(self.video_codec, rate=self.frame_rate)
        stream.width, stream.height, stream.pix_fmt = width, height, self.pix_fmt
        if self.pixel_aspect != 1:
            stream.codec_context.sample_aspect_ratio = self.pixel_aspect
        if self.rotation:
            stream.set_display_rotation(self.rotation)
        stream.bit_rate = 4_000_000
        if self.video_codec == "libx264":
            stream.codec_context.time_base = Fraction(1, 90_000)
            stream.options = {"crf": "1", "preset": "veryfast", "bf": "0"}
        return stream

    def _write_pictures(self, container, stream):
        base = stream.codec_context.time_base or 1 / Fraction(self.frame_rate)
        for time, picture in zip(self.times, self.pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(format=self.pix_fmt)
            frame.time_base, frame.pts = base, round(Fraction(time) / base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    def _write_sound(self, container, stream):
        channels = np.atleast_2d(self.sound).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(channels), format="fltp", layout=self.layout
        )
        frame.sample_rate, frame.time_base = self.rate, Fraction(1, self.rate)
        frame.pts = round(self.sound_start * self.rate)
        resampler = av.AudioResampler(
            format=self.sample_format,
            layout=self.layout,
            rate=self.rate,
            frame_size=stream.codec_context.frame_size or 1024,
        )
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))


def movie(seconds=2.0, *, fps=25, size=(64, 48), sound=True, rate=48_000, **changes):
    """A movie of clock pictures and a chirp."""
    times = [float(i / Fraction(fps)) for i in range(round(seconds * Fraction(fps)))]
    fields = {
        "pictures": clock_pictures(times, size=size),
        "times": times,
        "sound": chirp(seconds, rate) if sound else None,
        "rate": rate,
        "frame_rate": fps,
    }
    return Movie(**fields | changes)
