"""The synthetic corpus: the same clip again, one clock, lips that are ambiguous."""

import ctypes
import re

import numpy as np
import pytest

from sinkscope.avsr.clip import FRAME_RATE, SAMPLE_RATE, Clip, Phoneme
from sinkscope.avsr.drawn_mouth import Face, draw_mouth
from sinkscope.avsr.espeak import Speaker, Utterance
from sinkscope.avsr.synthetic import GRAMMAR, VARIANTS, make_clip, random_text, vocabulary
from sinkscope.avsr.visemes import mouth_curve, viseme_of
from sinkscope.errors import InputError


@pytest.fixture(scope="module")
def speaker():
    try:
        ctypes.CDLL("libespeak-ng.so.1")
    except OSError:
        pytest.skip("espeak-ng's library is not installed (Debian: libespeak-ng1)")
    with Speaker() as opened:
        yield opened


def test_sentences_follow_the_grammar() -> None:
    words = random_text(np.random.default_rng(0), 50).split()
    assert len(words) == 300
    for number, word in enumerate(words):
        assert word in GRAMMAR[number % 6]
    assert len(set(vocabulary())) == 51


def test_no_voice_speaks_in_two_splits() -> None:
    names = [name for variants in VARIANTS.values() for name in variants]
    assert len(set(names)) == len(names)


def test_a_clip_is_the_same_in_any_order(speaker) -> None:
    first = make_clip(speaker, seed=3, split="dev", index=5)
    make_clip(speaker, seed=3, split="dev", index=6)
    again = make_clip(speaker, seed=3, split="dev", index=5)
    np.testing.assert_array_equal(first.waveform, again.waveform)
    np.testing.assert_array_equal(first.frames, again.frames)
    other = make_clip(speaker, seed=4, split="dev", index=5)
    assert other.text != first.text or not np.array_equal(other.waveform, first.waveform)


def test_length_text_and_streams_agree(speaker) -> None:
    for index in range(6):
        clip = make_clip(speaker, seed=0, split="test", index=index)
        assert 2 <= len(clip.text.split()) / 6 <= 4
        assert 2.5 < clip.duration <= 8.5
        assert abs(len(clip.waveform) / SAMPLE_RATE - len(clip.frames) / FRAME_RATE) < 0.05
        assert 0.02 < np.abs(clip.waveform).max() <= 1


def test_phonemes_stand_where_the_sound_is(speaker) -> None:
    """Hissing crosses zero more often than vowels do; a timeline that is shifted does not know."""
    clips = [make_clip(speaker, seed=0, split="train", index=index) for index in range(4)]

    def crossings(clip: Clip, sign: str, shift: float) -> list[float]:
        spans = [p for p in clip.phonemes if re.match(sign, p.label)]
        parts = [
            clip.waveform[int((p.start + shift) * SAMPLE_RATE) : int((p.end + shift) * SAMPLE_RATE)]
            for p in spans
        ]
        return [float(np.mean(part[1:] * part[:-1] < 0)) for part in parts if len(part) > 100]

    def contrast(shift: float) -> float:
        hissing = [rate for clip in clips for rate in crossings(clip, "[sz]", shift)]
        vowels = [rate for clip in clips for rate in crossings(clip, "[aeiouɑɔɛɪʊʌæə]", shift)]
        return float(np.median(hissing) / np.median(vowels))

    assert contrast(0) > 2.5
    assert contrast(0.15) < 0.6 * contrast(0)
    clip = clips[0]
    ends = [phoneme.end for phoneme in clip.phonemes]
    starts = [phoneme.start for phoneme in clip.phonemes]
    assert all(end <= start + 1e-6 for end, start in zip(ends, starts[1:], strict=False))


def test_lips_cannot_tell_what_real_lips_cannot() -> None:
    for alike in ("pbm", "fv", "tdsznl", "kɡ"):
        assert len({viseme_of(phoneme) for phoneme in alike}) == 1
    different = ["p", "f", "t", "k", "w", "iː", "ɛ", "ɑː", "ɔː"]
    assert len({viseme_of(phoneme) for phoneme in different}) == len(different)


def test_the_mouth_opens_when_the_vowel_sounds() -> None:
    phonemes = (Phoneme("b", 0.4, 0.6), Phoneme("ɑː", 0.6, 1.0), Phoneme("m", 1.0, 1.2))
    opening = mouth_curve(phonemes, 40)[:, 0]
    assert abs(int(opening.argmax()) - 0.8 * FRAME_RATE) <= 2
    assert opening[int(0.5 * FRAME_RATE)] < 0.2


def test_a_drawn_mouth_shows_its_opening() -> None:
    curve = np.tile([0.0, 0.5, 0.0, 0.0], (2, 1))
    curve[1, 0] = 1.0
    rng = np.random.default_rng(0)
    face = Face.random(np.random.default_rng(1))
    shut, wide = draw_mouth(curve, face, rng).astype(float)
    dark = face.skin * 0.5
    assert (wide[30:66, 30:66] < dark).sum() > 3 * (shut[30:66, 30:66] < dark).sum()


@pytest.mark.parametrize("voice", ["nobody", "en+nobody"])
def test_a_voice_that_does_not_exist_is_refused(speaker, voice) -> None:
    with pytest.raises(InputError, match="no such voice"):
        speaker.speak(Utterance("bin", voice))
    samples, _ = speaker.speak(Utterance("bin", "en+m1"))
    assert len(samples) > 1000
