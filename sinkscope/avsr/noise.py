"""Noise: four kinds of it, and how to add it at a chosen signal-to-noise ratio.

Everything here is numpy on mono waveforms at 16 kHz; whatever is random comes from the caller's
``numpy.random.Generator``. A noise made here has a root mean square of ``RMS``.

```python
street = read_noise("street.wav")
waveform = add_noise(clip.waveform, street, snr_db=0, rng=rng)
clip = noisy(clip, street, 0)  # the same stretch of noise whenever this clip is read
```
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike

import numpy as np
from jaxtyping import Float32

from sinkscope.avsr.clip import SAMPLE_RATE, Clip
from sinkscope.avsr.sound import read_sound
from sinkscope.errors import InputError

__all__ = ["RMS", "add_noise", "babble", "noisy", "pink_noise", "read_noise", "white_noise"]

RMS = 0.1
"""Root mean square of every noise made here, 20 dB below full scale."""

Waveform = Float32[np.ndarray, " samples"]


def add_noise(
    waveform: Waveform,
    noise: Float32[np.ndarray, " noise_samples"],
    snr_db: float | int,
    *,
    rng: np.random.Generator,
) -> Float32[np.ndarray, " samples"]:
    """Add a random stretch of a noise so that the clip has the signal-to-noise ratio asked for.

    The ratio is ``10 log10(P(waveform) / P(noise))`` with P the mean square over the whole waveform
    and over the stretch that is added, so 0 dB gives both the same power. A noise that is shorter
    than the waveform is looped. The sum is not clipped: clipping would change the ratio.

    Args:
        waveform: the clean samples.
        noise: the samples to add, at the same rate.
        snr_db: decibels; ``math.inf`` returns the waveform as it was.
        rng: chooses where in the noise the stretch begins.

    Returns:
        The noisy samples, as many as ``waveform`` has.

    Raises:
        InputError: the waveform or the noise is empty or silent, or the ratio is not a number.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> tone = np.sin(np.arange(16000, dtype=np.float32))
        >>> noisy = add_noise(tone, white_noise(16000, rng=rng), 10.0, rng=rng)
        >>> round(float(10 * np.log10(np.mean(tone**2) / np.mean((noisy - tone) ** 2))), 3)
        10.0
    """
    if math.isnan(snr_db) or snr_db == -math.inf:
        raise InputError(
            f"add_noise: snr_db is {snr_db}; give a number of decibels, such as 0 or 10."
        )
    power = _power(waveform, "waveform")
    stretch = _stretch(noise, len(waveform), rng)
    gain = math.sqrt(power / _power(stretch, "noise")) * 10 ** (-snr_db / 20)
    return (waveform + gain * stretch).astype(np.float32)


def noisy(
    clip: Clip,
    noise: Float32[np.ndarray, " noise_samples"],
    snr_db: float | int,
    *,
    seed: int = 0,
) -> Clip:
    """The clip in noise, the same whenever and in whatever order it is read.

    Where in the noise the stretch begins depends on the clip's file name and its folder's, the
    ratio and the seed alone; for a clip without a file, on its samples in place of a name.

    Args:
        clip: a clip with sound.
        noise: the samples to add, 16 kHz; looped where they are too few.
        snr_db: decibels, as `add_noise` defines them.
        seed: another seed gives another stretch.

    Raises:
        InputError: the clip has no sound, or `add_noise` refuses.

    Examples:
        >>> tone = Clip(np.sin(np.arange(16000, dtype=np.float32)), None)
        >>> noise = white_noise(100_000, rng=np.random.default_rng(0))
        >>> one, two = noisy(tone, noise, 0), noisy(tone, noise, 0)
        >>> bool((one.waveform == two.waveform).all())
        True
    """
    if clip.waveform is None:
        raise InputError(f"{clip.path or 'The clip'} has no sound, so no noise can be added to it.")
    rng = np.random.default_rng(_seed_of(clip, snr_db, seed))
    return replace(clip, waveform=add_noise(clip.waveform, noise, snr_db, rng=rng))


def _seed_of(clip: Clip, snr_db: float | int, seed: int) -> int:
    """A whole number of 64 bits from the clip's name, the ratio and the seed."""
    if clip.path is not None:
        name = "/".join(clip.path.with_suffix("").parts[-2:]).encode()
    else:
        name = np.ascontiguousarray(clip.waveform).tobytes()
    digest = hashlib.blake2b(f"{seed} {float(snr_db) + 0.0!r} ".encode(), digest_size=8)
    digest.update(name)
    return int.from_bytes(digest.digest(), "big")


def white_noise(samples: int, *, rng: np.random.Generator) -> Float32[np.ndarray, " samples"]:
    """Make Gaussian noise with the same power in every band of equal width.

    Examples:
        >>> noise = white_noise(16000, rng=np.random.default_rng(0))
        >>> round(float(np.sqrt(np.mean(noise**2))), 3)
        0.1
    """
    return _level(rng.standard_normal(_positive(samples)))


def pink_noise(samples: int, *, rng: np.random.Generator) -> Float32[np.ndarray, " samples"]:
    """Make Gaussian noise whose power falls as 1 / frequency: 3 dB an octave, from 20 Hz on.

    Examples:
        >>> power = np.abs(np.fft.rfft(pink_noise(160_000, rng=np.random.default_rng(0)))) ** 2
        >>> bool(abs(power[1000:2000].sum() / power[10_000:20_000].sum() - 1) < 0.1)  # octaves
        True
    """
    spectrum = np.fft.rfft(rng.standard_normal(_positive(samples)))
    frequency = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    shaped = spectrum / np.sqrt(np.maximum(frequency, 20.0))
    if samples > 1:
        shaped[0] = 0.0
    return _level(np.fft.irfft(shaped, samples))


def babble(
    waveforms: Sequence[Float32[np.ndarray, " _"]], *, rng: np.random.Generator
) -> Float32[np.ndarray, " samples"]:
    """Mix several people who speak at once, all equally loud, each begun at a random place.

    Args:
        waveforms: one voice each; shorter ones are looped to the length of the longest.
        rng: chooses where each voice begins.

    Raises:
        InputError: no voice is given, or one of them is empty or silent.
    """
    if not waveforms:
        raise InputError("babble: no waveform is given; give at least one voice.")
    samples = max(map(len, waveforms))
    voices = [voice / math.sqrt(_power(voice, "voice")) for voice in waveforms]
    return _level(np.sum([_stretch(voice, samples, rng) for voice in voices], axis=0))


def read_noise(path: str | PathLike[str]) -> Float32[np.ndarray, " samples"]:
    """Read the sound of any media file as a noise: mono, 16 kHz, at the level it has.

    Raises:
        InputError: the file cannot be read or has no sound.
    """
    return read_sound(path).waveform


def _stretch(
    noise: np.ndarray, samples: int, rng: np.random.Generator
) -> Float32[np.ndarray, " samples"]:
    """Cut ``samples`` out of the noise at a random place, looping it where it is too short."""
    _power(noise, "noise")
    if len(noise) >= samples:
        start = int(rng.integers(len(noise) - samples + 1))
        return noise[start : start + samples]
    return np.resize(np.roll(noise, -int(rng.integers(len(noise)))), samples)


def _power(waveform: np.ndarray, what: str) -> float:
    power = float(np.mean(np.square(waveform, dtype=np.float64))) if len(waveform) else 0.0
    if power > 0:
        return power
    found = "silent (every sample is 0)" if len(waveform) else "empty"
    raise InputError(
        f"The {what} is {found}, so no signal-to-noise ratio exists; give one that sounds."
    )


def _level(waveform: np.ndarray) -> Float32[np.ndarray, " samples"]:
    return (waveform * (RMS / math.sqrt(_power(waveform, "noise")))).astype(np.float32)


def _positive(samples: int) -> int:
    if samples < 1:
        raise InputError(f"A noise of {samples} samples was asked for; ask for at least one.")
    return samples
