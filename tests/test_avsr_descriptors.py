"""What a token is, from the seconds of the clip that it covers."""

import numpy as np
import pytest

from sinkscope.avsr.clip import Clip, Phoneme
from sinkscope.avsr.descriptors import (
    describe_tokens,
    loudness,
    mouth_motion,
    phoneme_at,
    silence,
)
from sinkscope.avsr.media import read_clip
from tests.shared_data import shared


def token_times(rate, seconds):
    """Intervals of a stream of tokens at so many a second."""
    start = np.arange(round(seconds * rate)) / rate
    return np.stack([start, start + 1 / rate], axis=1)


def steps(*levels, seconds=0.1):
    """A square wave whose amplitude changes every so many seconds."""
    sign = np.where(np.arange(round(seconds * 16_000)) % 2, 1, -1)
    return np.concatenate([level * sign for level in levels]).astype(np.float32)


def test_loudness_is_that_of_the_seconds_asked_for():
    clip = Clip(steps(1.0, 0.1, 0.0, 0.01), None)
    decibels = loudness(clip, token_times(10, 0.5))
    np.testing.assert_allclose(decibels, [0, -20, -100, -40, -100], atol=1e-4)
    across = loudness(clip, np.array([[0.05, 0.15], [0.35, 0.6]]))
    np.testing.assert_allclose(across, [10 * np.log10(0.505), -40], atol=1e-4)


def test_loudness_is_unknown_without_sound_or_seconds():
    times = np.array([[0.0, 0.1], [np.nan, np.nan]])
    assert np.isnan(loudness(Clip(None, np.zeros((5, 2, 2), np.uint8)), times)).all()
    np.testing.assert_array_equal(np.isnan(loudness(Clip(steps(0.5), None), times)), [False, True])


@pytest.mark.parametrize("volume", [1.0, 0.02])
def test_silence_is_relative_to_the_clip(volume):
    clip = Clip(steps(*[0.5 * volume] * 6, 0.05 * volume, 0.005 * volume, 0.0), None)
    expected = [False] * 7 + [True, True]
    np.testing.assert_array_equal(silence(clip, token_times(10, 0.9)), expected)
    strict = silence(clip, token_times(10, 0.9), threshold_db=-15.0)
    np.testing.assert_array_equal(strict, [False] * 6 + [True] * 3)


def test_a_clip_without_any_sound_in_it_is_silent_and_one_without_sound_is_unknown():
    times = token_times(10, 0.3)
    assert silence(Clip(np.zeros(4800, np.float32), None), times).all()
    assert not silence(Clip(None, np.zeros((8, 2, 2), np.uint8)), times).any()


def test_a_long_picture_does_not_make_a_short_sound_quieter():
    sound = steps(*[0.5] * 3, 0.1)
    times = token_times(10, 0.4)
    still = np.zeros((500, 2, 2), np.uint8)
    alone, beside = silence(Clip(sound, None), times), silence(Clip(sound, still), times)
    np.testing.assert_array_equal(alone, beside)
    quiet_end = Clip(steps(*[0.5] * 3, 0.005), still)
    np.testing.assert_array_equal(silence(quiet_end, times), [False, False, False, True])


def moving(*levels):
    """Dark pictures whose lower third has these grey levels, times three."""
    frames = np.zeros((len(levels), 96, 96), np.uint8)
    frames[:, 64:] = 3 * np.array(levels, np.uint8)[:, None, None]
    return Clip(None, frames)


def test_light_and_camera_noise_are_no_motion():
    rng = np.random.default_rng(0)
    still = rng.integers(60, 90, (96, 96)) + np.arange(0, 50, 5)[:, None, None]
    noisy = still + rng.normal(0, 8, still.shape)
    assert mouth_motion(Clip(None, still.astype(np.uint8)), np.array([[0, 0.4]]))[0] < 1e-6
    frames = np.clip(noisy, 0, 255).astype(np.uint8)
    pixels = np.abs(np.diff(frames.astype(int), axis=0)).mean()
    assert mouth_motion(Clip(None, frames), np.array([[0, 0.4]]))[0] < 0.15 * pixels


def test_motion_is_the_mean_change_between_frames():
    clip = moving(0, 0, 80, 80, 70, 70)  # changes: 0 80 0 10 0, at 0.04 0.08 0.12 0.16 0.20 s
    fast = mouth_motion(clip, token_times(25, 0.24))
    np.testing.assert_allclose(fast, [0, 40, 40, 5, 5, 0], atol=1e-5)
    at_edges = np.array([[0.02, 0.06], [0.06, 0.10], [0.10, 0.14], [0.14, 0.18]])
    np.testing.assert_allclose(mouth_motion(clip, at_edges), [0, 80, 0, 10], atol=1e-5)
    slow = mouth_motion(clip, np.array([[0.0, 0.24]]))
    np.testing.assert_allclose(slow, [(80 + 10) * 0.04 / 0.24], atol=1e-5)


def test_motion_of_a_token_shorter_than_a_frame_is_known():
    motion = mouth_motion(moving(0, 0, 80, 80), token_times(50, 0.16))
    np.testing.assert_allclose(motion, [0, 0, 0, 80, 80, 0, 0, 0], atol=1e-5)


def test_motion_is_unknown_without_frames():
    times = np.array([[0.0, 0.1], [5.0, 5.1], [np.nan, np.nan]])
    assert np.isnan(mouth_motion(Clip(steps(0.5), None), times)).all()
    assert np.isnan(mouth_motion(moving(7), times)).all()
    known = ~np.isnan(mouth_motion(moving(0, 3, 6), times))
    np.testing.assert_array_equal(known, [True, False, False])


def test_the_phoneme_is_the_one_that_covers_most():
    line = (Phoneme("b", 0.0, 0.06), Phoneme("ɪ", 0.06, 0.2), Phoneme("n", 0.25, 0.3))
    clip = Clip(None, None, phonemes=line)
    times = np.array([[0.0, 0.1], [0.04, 0.16], [0.2, 0.25], [0.19, 0.3], [np.nan, np.nan]])
    assert phoneme_at(clip, times) == ["b", "ɪ", "", "n", ""]
    assert phoneme_at(Clip(None, None), times[:2]) == ["", ""]


def test_a_table_has_one_entry_a_token():
    clip = Clip(
        steps(*[0.5] * 5), np.zeros((12, 4, 4), np.uint8), phonemes=(Phoneme("b", 0.0, 1.0),)
    )
    table = describe_tokens(clip, token_times(10, 0.5))
    assert list(table) == ["loudness_db", "silence", "motion", "phoneme"]
    assert all(len(values) == 5 for values in table.values())
    assert table["silence"].dtype == bool
    assert table["phoneme"].tolist() == ["b"] * 5
    none = describe_tokens(clip, np.zeros((0, 2)))
    assert all(len(values) == 0 for values in none.values())


@pytest.mark.parametrize("name", ["bbaf2n", "lrwp9a", "pwij3p"])
def test_a_real_sentence_begins_and_ends_in_silence_with_a_still_mouth(name):
    table = describe_tokens(read_clip(shared(f"data/grid/{name}.mpg")), token_times(12.5, 2.96))
    quiet = table["silence"]
    assert 8 <= quiet.sum() <= 20
    loud = np.flatnonzero(table["loudness_db"] > -25)
    assert loud[0] >= 6
    assert quiet[loud[0] : loud[-1]].sum() <= 1
    assert table["motion"][~quiet].mean() > 1.4 * table["motion"][quiet].mean()
