"""Sound of any media file as mono samples at 16 kHz."""

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from av import AudioFrame, AudioResampler
from jaxtyping import Float32

from sinkscope.avsr.clip import SAMPLE_RATE
from sinkscope.avsr.decode import Decoder
from sinkscope.errors import InputError

__all__ = ["Sound", "decode_sound", "read_sound"]

GAP_SECONDS = 0.05
"""A hole in the time stamps longer than this is filled with silence."""

LONGEST_GAP_SECONDS = 60.0
"""A longer hole is a broken time stamp, and refused."""


RATES = (2_000, 1_000_000)
"""Samples a second outside of which a header is taken to be wrong."""


@dataclass(frozen=True)
class Sound:
    """Decoded sound.

    Attributes:
        waveform: mono samples in [-1, 1] at 16 kHz.
        start: second of the file's clock at which the sound begins.
        notes: what of it is damaged or missing, in sentences.
    """

    waveform: Float32[np.ndarray, " samples"]
    start: float
    notes: tuple[str, ...]


def read_sound(path: str | PathLike[str]) -> Sound:
    """Decode the sound of a media file.

    Raises:
        InputError: the file cannot be read, or has no sound that decodes.
    """
    sound = decode_sound(path)
    if not len(sound.waveform):
        raise InputError(f"{path}: {' '.join(sound.notes)} Give a file with sound.")
    return sound


def decode_sound(path: str | PathLike[str]) -> Sound:
    """Decode the sound of a media file; no samples where it has none.

    Channels are averaged, the low-frequency channel of surround sound left out, so that the level
    does not depend on how a codec stores its samples. Holes in the time stamps become silence.

    Raises:
        InputError: the file cannot be read, or its samples are not finite numbers.
    """
    decoder = Decoder(Path(path), "audio")
    pieces = list(_pieces(decoder))
    waveform = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    if not np.isfinite(waveform).all():
        raise InputError(
            f"{path} has samples that are not finite numbers (NaN or infinite); export it again."
        )
    return Sound(waveform, decoder.start, tuple(decoder.notes))


def _pieces(decoder: Decoder) -> Iterator[Float32[np.ndarray, " samples"]]:
    """Mono pieces at 16 kHz, one after the other; a hole or a change of format begins a new run."""
    resampler, previous, stop = AudioResampler(), None, 0.0
    for time, frame in decoder.frames():
        if not isinstance(frame, AudioFrame):
            continue
        _refuse_rate(frame.sample_rate, decoder.path)
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        gap = time - stop if previous else 0.0
        if form != previous or gap > GAP_SECONDS:
            if previous:
                yield from map(_mono, resampler.resample(None))
            yield np.zeros(_gap_samples(gap, stop, decoder.path), np.float32)
            resampler = AudioResampler(format="fltp", rate=SAMPLE_RATE)
        yield from map(_mono, resampler.resample(frame))
        previous, stop = form, time + frame.samples / frame.sample_rate
    if previous:
        yield from map(_mono, resampler.resample(None))


def _gap_samples(gap: float, at: float, path: Path) -> int:
    if gap > LONGEST_GAP_SECONDS:
        raise InputError(
            f"{path}: the time stamps of the sound jump by {gap:.0f} s at {at:.1f} s; "
            "write the file again with a converter."
        )
    return round(gap * SAMPLE_RATE) if gap > GAP_SECONDS else 0


def _refuse_rate(rate: int, path: Path) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise InputError(
            f"{path} claims {rate} samples of sound a second, so its header is damaged or it is no "
            f"recording of speech; give sound at {RATES[0]:,} to {RATES[1]:,}."
        )


def _mono(frame: AudioFrame) -> Float32[np.ndarray, " samples"]:
    samples = frame.to_ndarray()
    keep = [channel.name != "LFE" for channel in frame.layout.channels]
    if any(keep) and len(keep) == len(samples):
        samples = samples[keep]
    return samples.mean(axis=0, dtype=np.float32)
