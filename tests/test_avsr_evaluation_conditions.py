"""Noise of an evaluation: right in decibels, one's own voice left out, the same at every turn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.evaluation.conditions import CLEAN, Condition, conditions_of, open_mixer
from sinkscope.avsr.manifest import Entry
from sinkscope.errors import InputError


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.1 * np.sin(2 * np.pi * hertz * np.arange(int(16_000 * seconds)) / 16_000)).astype(
        "f4"
    )


def loudness(waveform: np.ndarray, hertz: float) -> float:
    """The amplitude of one tone."""
    time = np.arange(len(waveform)) / 16_000
    return float(2 * np.abs(np.mean(waveform * np.exp(-2j * np.pi * hertz * time))))


VOICES = [200.0 + 100 * number for number in range(8)]


@pytest.fixture
def corpus() -> list[Clip]:
    return [Clip(tone(hertz), None, text="a") for hertz in VOICES]


@pytest.mark.parametrize("snr", [10, 0, -5.0])
def test_the_ratio_is_what_was_asked_for(corpus, snr) -> None:
    mixer = open_mixer("babble", corpus)
    assert mixer is not None
    for number, clip in enumerate(corpus):
        noisy = mixer(clip, number, snr).waveform
        noise = noisy - clip.waveform
        found = 10 * np.log10(np.mean(clip.waveform**2) / np.mean(noise**2))
        assert found == pytest.approx(snr, abs=0.01)


def test_babble_is_five_others_and_never_oneself(corpus) -> None:
    mixer = open_mixer("babble", corpus)
    assert mixer is not None
    heard = []
    for number, clip in enumerate(corpus):
        noise = mixer(clip, number, 0).waveform - clip.waveform
        voices = {other for other, hertz in enumerate(VOICES) if loudness(noise, hertz) > 0.01}
        assert len(voices) == 5
        assert number not in voices
        heard.append(frozenset(voices))
    assert len(set(heard)) > 3


def test_noise_hangs_on_seed_and_number_alone(corpus) -> None:
    mixer, again = open_mixer("babble", corpus), open_mixer("babble", corpus)
    other = open_mixer("babble", corpus, seed=1)
    assert mixer is not None
    assert again is not None
    assert other is not None
    again(corpus[5], 5, 0)
    one = mixer(corpus[2], 2, 0).waveform
    np.testing.assert_array_equal(one, again(corpus[2], 2, 0).waveform)
    assert np.abs(one - other(corpus[2], 2, 0).waveform).max() > 0.01
    quiet = mixer(corpus[2], 2, 20).waveform - corpus[2].waveform
    np.testing.assert_allclose(10 * quiet, one - corpus[2].waveform, atol=1e-5)


def test_a_noise_file_is_read_once_and_looped(corpus, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "hum.wav", tone(3000, 0.3), 16_000)
    mixer = open_mixer(tmp_path / "hum.wav", corpus)
    (tmp_path / "hum.wav").unlink()
    assert mixer is not None
    noise = mixer(corpus[0], 0, 0).waveform - corpus[0].waveform
    assert loudness(noise, 3000) == pytest.approx(0.1, rel=0.05)
    assert loudness(noise, VOICES[3]) < 0.01


def test_a_clip_without_sound_stays_and_a_silent_one_is_refused(corpus) -> None:
    mixer = open_mixer("babble", corpus)
    assert mixer is not None
    deaf = replace(corpus[0], waveform=None, frames=np.zeros((3, 8, 8), np.uint8))
    assert mixer(deaf, 0, 0) is deaf
    with pytest.raises(InputError, match="silent"):
        mixer(replace(corpus[0], waveform=np.zeros(16_000, np.float32)), 0, 0)


def test_babble_of_files_passes_over_what_cannot_be_read(tmp_path: Path) -> None:
    entries = []
    for number, hertz in enumerate(VOICES[:3]):
        soundfile.write(tmp_path / f"{number}.wav", tone(hertz), 16_000)
        entries.append(Entry(tmp_path / f"{number}.wav", "a"))
    entries[1].source.write_bytes(b"no sound")
    mixer = open_mixer("babble", entries)
    assert mixer is not None
    assert sorted(mixer.voices) == [0, 2]
    with pytest.raises(InputError, match="1 of 2 sound"):
        open_mixer("babble", entries[:2])


def test_conditions_begin_clean_and_say_their_noise() -> None:
    assert conditions_of(None, ()) == (CLEAN,)
    found = conditions_of("noise/street.wav", (10, -5.0))
    assert [one.name for one in found] == ["clean", "street.wav 10 dB", "street.wav -5 dB"]
    assert found[1] == Condition("street.wav", 10)
    for snrs in ((float("nan"),), (float("inf"),), (5, 5)):
        with pytest.raises(InputError, match="once"):
            conditions_of("babble", snrs)
