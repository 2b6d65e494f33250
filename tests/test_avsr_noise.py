"""Noise at a signal-to-noise ratio that is the one asked for."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.noise import (
    RMS,
    add_noise,
    babble,
    noisy,
    pink_noise,
    read_noise,
    white_noise,
)
from sinkscope.errors import InputError
from tests.media_files import chirp
from tests.shared_data import shared


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def speech(rng):
    """A chirp, then silence: its mean power is not that of its loud part."""
    waveform = chirp(2.0, 16_000).astype(np.float32)
    waveform[20_000:] = 0
    return waveform


def ratio_db(waveform, noisy):
    residue = noisy.astype(np.float64) - waveform
    return 10 * math.log10(np.mean(waveform.astype(np.float64) ** 2) / np.mean(residue**2))


@pytest.mark.parametrize("snr_db", [-7.5, 0.0, 5.0, 20.0])
@pytest.mark.parametrize("length", [3_000, 32_000, 100_000])
def test_the_ratio_over_the_whole_waveform_is_the_one_asked_for(speech, rng, snr_db, length):
    noise = white_noise(length, rng=rng) * np.linspace(0.1, 1, length, dtype=np.float32)
    noisy = add_noise(speech, noise, snr_db, rng=rng)
    assert noisy.dtype == np.float32
    assert noisy.shape == speech.shape
    assert ratio_db(speech, noisy) == pytest.approx(snr_db, abs=1e-3)


def test_a_long_noise_gives_a_random_stretch_and_a_short_one_is_looped(speech, rng):
    long = np.arange(1, 100_001, dtype=np.float32)
    stretches = [add_noise(speech, long, 0, rng=rng) - speech for _ in range(3)]
    starts = {round(float(stretch[0] / (stretch[1] - stretch[0]) / 100)) for stretch in stretches}
    assert len(starts) == 3, "the stretch is always the same"
    short = white_noise(1000, rng=rng)
    added = add_noise(speech, short, 0, rng=rng) - speech
    np.testing.assert_allclose(added[:1000], added[1000:2000], atol=1e-5)
    period = np.correlate(np.tile(short, 2), added[:1000], "valid")
    assert period.max() / (np.linalg.norm(short) * np.linalg.norm(added[:1000])) > 0.999


def test_the_same_generator_gives_the_same_noise(speech):
    noise = white_noise(100_000, rng=np.random.default_rng(1))
    one, two, three = (
        add_noise(speech, noise, 0, rng=np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(one, two)
    assert not np.allclose(one, three)


def test_infinite_ratio_is_clean_and_no_ratio_is_refused(speech, rng):
    noise = white_noise(1000, rng=rng)
    np.testing.assert_array_equal(add_noise(speech, noise, math.inf, rng=rng), speech)
    for bad in (math.nan, -math.inf):
        with pytest.raises(InputError, match="snr_db is"):
            add_noise(speech, noise, bad, rng=rng)


def test_silence_has_no_ratio(speech, rng):
    silent, noise = np.zeros(16_000, np.float32), white_noise(16_000, rng=rng)
    with pytest.raises(InputError, match="The waveform is silent"):
        add_noise(silent, noise, 0, rng=rng)
    with pytest.raises(InputError, match="The noise is silent"):
        add_noise(speech, silent, 0, rng=rng)
    with pytest.raises(InputError, match="The noise is empty"):
        add_noise(speech, silent[:0], 0, rng=rng)
    with pytest.raises(InputError, match="The waveform is empty"):
        add_noise(silent[:0], noise, 0, rng=rng)
    with pytest.raises(InputError, match="The voice is silent"):
        babble([noise, silent], rng=rng)
    with pytest.raises(InputError, match="no waveform is given"):
        babble([], rng=rng)
    with pytest.raises(InputError, match="0 samples"):
        white_noise(0, rng=rng)


def octave_slope(waveform):
    """Decibels an octave by which the power density falls between 62.5 and 4,000 Hz."""
    power = np.abs(np.fft.rfft(waveform)) ** 2
    frequency = np.fft.rfftfreq(len(waveform), 1 / 16_000)
    edges = 62.5 * 2.0 ** np.arange(7)
    density = [
        10 * np.log10(power[(frequency >= low) & (frequency < high)].mean())
        for low, high in pairwise(edges)
    ]
    return np.polyfit(np.arange(6), density, 1)[0]


def test_white_is_flat_and_pink_falls_by_three_decibels_an_octave(rng):
    white, pink = white_noise(160_000, rng=rng), pink_noise(160_000, rng=rng)
    assert octave_slope(white) == pytest.approx(0, abs=0.2)
    assert octave_slope(pink) == pytest.approx(-3.01, abs=0.2)
    for noise in (white, pink):
        assert np.sqrt(np.mean(noise.astype(np.float64) ** 2)) == pytest.approx(RMS, rel=1e-4)


def test_in_babble_every_voice_is_equally_loud(rng):
    t = np.arange(16_000) / 16_000
    loud, soft = (np.sin(2 * np.pi * f * t).astype(np.float32) for f in (300, 1000))
    mixed = babble([0.9 * loud, 0.01 * soft[:8000]], rng=rng)
    assert len(mixed) == 16_000
    power = np.abs(np.fft.rfft(mixed)) ** 2
    assert power[1000] == pytest.approx(power[300], rel=0.05)
    assert np.sqrt(np.mean(mixed**2)) == pytest.approx(RMS, rel=1e-3)


def test_a_noise_file_is_read_at_its_level_and_rate(tmp_path):
    soundfile.write(tmp_path / "hum.wav", chirp(1.0, 44_100), 44_100)
    noise = read_noise(tmp_path / "hum.wav")
    np.testing.assert_allclose(noise[100:-100], chirp(1.0, 16_000)[100:-100], atol=2e-3)
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 16_000)
    with pytest.raises(InputError, match=r"nothing\.wav.*Give a file with sound"):
        read_noise(tmp_path / "nothing.wav")


def test_the_recorded_noises_are_read(speech, rng):
    for name in ("noise2.wav", "noise3.wav"):
        noise = read_noise(shared(f"data/noise/{name}"))
        assert len(noise) > 16_000
        assert ratio_db(speech, add_noise(speech, noise, 0, rng=rng)) == pytest.approx(0, abs=1e-3)


# --- by clip -------------------------------------------------------------------------------------


def stretch(clip, noise, snr_db=0, **options):
    """What was added, of unit power."""
    added = noisy(clip, noise, snr_db, **options).waveform.astype(np.float64) - clip.waveform
    return added / np.sqrt(np.mean(added**2))


@pytest.mark.parametrize("snr_db", [0, -5.0, 10.0])
@pytest.mark.parametrize("length", [500, 100_000])
def test_a_noisy_clip_has_the_ratio_and_keeps_all_else(speech, rng, snr_db, length):
    clip = Clip(speech, np.zeros((50, 96, 96), np.uint8), "bin blue", Path("a/b.mp4"))
    heard = noisy(clip, white_noise(length, rng=rng), snr_db)
    assert ratio_db(speech, heard.waveform) == pytest.approx(snr_db, abs=1e-3)
    assert (heard.text, heard.path) == (clip.text, clip.path)
    assert heard.frames is clip.frames


def test_the_stretch_depends_on_the_clip_the_ratio_and_the_seed_alone(speech, rng):
    noise = white_noise(300_000, rng=rng)
    names = [f"lrs3/test/{who}/{n:05d}.mp4" for who in ("amy", "bob") for n in range(3)]
    clips = [Clip(speech, None, path=Path(name)) for name in names]
    forward = [stretch(clip, noise) for clip in clips]
    backward = [stretch(clip, noise) for clip in reversed(clips)][::-1]
    np.testing.assert_array_equal(forward, backward)
    moved = Clip(speech, None, path=Path("/data/test/amy/00000.avi"))
    np.testing.assert_array_equal(stretch(moved, noise), forward[0])
    others = [*forward, stretch(clips[0], noise, 5), stretch(clips[0], noise, seed=1)]
    alike = np.corrcoef(others) - np.eye(len(others))
    assert np.abs(alike).max() < 0.1, "two clips have the same stretch of noise"
    np.testing.assert_array_equal(stretch(clips[0], noise, -0.0), forward[0])


def test_a_clip_without_a_file_is_known_by_its_samples(speech, rng):
    noise = white_noise(300_000, rng=rng)
    one, other = Clip(speech, None), Clip(np.roll(speech, 100), None)
    np.testing.assert_array_equal(stretch(one, noise), stretch(Clip(speech.copy(), None), noise))
    assert abs(np.corrcoef(stretch(one, noise), stretch(other, noise))[0, 1]) < 0.1
    with pytest.raises(InputError, match=r"a\.mp4 has no sound"):
        noisy(Clip(None, np.zeros((1, 8, 8), np.uint8), path=Path("a.mp4")), noise, 0)
