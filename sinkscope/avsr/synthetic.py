"""A corpus that anyone can make: the GRID grammar, spoken by espeak-ng and drawn.

Two to four sentences an utterance, 3 to 8 s, with silence between them. The grammar is that of
the GRID corpus (Cooke et al. 2006): command, colour, preposition, letter, digit, adverb. Voices
for training, development and test share no espeak-ng variant. Everything derives from
``(seed, split, index)``, so a clip is the same whenever and wherever it is made.

Example:
    >>> len(GRAMMAR), len(vocabulary())
    (6, 51)
    >>> set(VARIANTS["train"]) & set(VARIANTS["test"])
    set()
"""

from typing import Literal

import numpy as np

from sinkscope.avsr.clip import FRAME_RATE, SAMPLE_RATE, Clip, Crop, Phoneme
from sinkscope.avsr.drawn_mouth import Face, draw_mouth
from sinkscope.avsr.espeak import ESPEAK_RATE, Speaker, Utterance
from sinkscope.avsr.visemes import mouth_curve

__all__ = ["GRAMMAR", "SPLITS", "VARIANTS", "Split", "make_clip", "random_text", "vocabulary"]

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

GRAMMAR: tuple[tuple[str, ...], ...] = (
    ("bin", "lay", "place", "set"),
    ("blue", "green", "red", "white"),
    ("at", "by", "in", "with"),
    tuple("abcdefghijklmnopqrstuvxyz"),
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    ("again", "now", "please", "soon"),
)
"""The words of each place in a GRID sentence."""

LANGUAGES = (
    "en",
    "en-029",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-gb-x-rp",
    "en-us",
    "en-us-nyc",
)

VARIANTS: dict[Split, tuple[str, ...]] = {
    "train": (
        *("m1", "m2", "m3", "m4", "m5", "m6", "f1", "f2", "f3", "adam", "Alicia", "Andrea"),
        *("Andy", "antonio", "belinda", "benjamin", "boris", "ed", "edward", "grandma", "iven"),
        *("john", "linda", "michel", "miguel", "pablo", "pedro", "quincy", "robert", "sandro"),
        *("steph2", "travis", "victor"),
    ),
    "dev": ("m7", "f4", "Annie", "max", "paul"),
    "test": ("m8", "f5", "Alex", "anika", "david", "shelby"),
}
"""espeak-ng's voice variants, by split."""

LONGEST = 8.0
"""Seconds; an utterance that comes out longer loses its last sentence."""

_RATIO = (441, 320)  # 22,050 to 16,000

_SPOKEN = {"a": "[[eI]]"}  # the letter, not the article


def vocabulary() -> list[str]:
    """All words of the grammar, each once."""
    return [word for place in GRAMMAR for word in place]


def random_text(rng: np.random.Generator, sentences: int) -> str:
    """So many sentences of the grammar, as one lower-case line."""
    return " ".join(str(rng.choice(place)) for _ in range(sentences) for place in GRAMMAR)


def make_clip(speaker: Speaker, *, seed: int, split: Split, index: int) -> Clip:
    """Clip number ``index`` of a split.

    Args:
        speaker: an open espeak-ng.
        seed: of the whole corpus.
        split: decides which voices may speak.
        index: from 0, without end.

    Raises:
        InputError: if espeak-ng is missing.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    words, waveform, phonemes = _speak(speaker, split, rng)
    waveform = _loudness(_resample(waveform), rng)
    frames = max(1, round(len(waveform) / SAMPLE_RATE * FRAME_RATE))
    face = Face.random(rng)
    drawn = draw_mouth(mouth_curve(phonemes, frames), face, rng)
    return Clip(waveform, drawn, text=words, crop=Crop("drawn"), phonemes=phonemes)


def _speak(
    speaker: Speaker, split: Split, rng: np.random.Generator
) -> tuple[str, np.ndarray, tuple[Phoneme, ...]]:
    voice = f"{rng.choice(LANGUAGES)}+{rng.choice(VARIANTS[split])}"
    manner = {
        "rate": int(rng.integers(145, 215)),
        "pitch": int(rng.integers(25, 75)),
        "pitch_range": int(rng.integers(30, 70)),
    }
    said: list[str] = []
    sound: list[np.ndarray] = [_pause(rng)]
    phonemes: list[Phoneme] = []
    for _ in range(int(rng.integers(2, 5))):
        text = random_text(rng, 1)
        spoken = " ".join(_SPOKEN.get(word, word) for word in text.split())
        samples, spans = speaker.speak(Utterance(spoken, voice, **manner))
        start = sum(map(len, sound)) / ESPEAK_RATE
        pause = _pause(rng)
        if len(said) >= 2 and start + (len(samples) + len(pause)) / ESPEAK_RATE > LONGEST:
            break
        said.append(text)
        sound += [samples, pause]
        phonemes += [Phoneme(p.label, p.start + start, p.end + start) for p in spans]
    return " ".join(said), np.concatenate(sound), tuple(phonemes)


def _pause(rng: np.random.Generator) -> np.ndarray:
    return np.zeros(int(rng.uniform(0.1, 0.4) * ESPEAK_RATE), np.float32)


def _resample(waveform: np.ndarray) -> np.ndarray:
    """From espeak-ng's rate to 16 kHz, band-limited; padded to a length whose FFT is fast."""
    blocks = -(-len(waveform) // (16 * _RATIO[0]))
    padded = np.pad(waveform, (0, blocks * 16 * _RATIO[0] - len(waveform)))
    count = blocks * 16 * _RATIO[1]
    spectrum = np.fft.rfft(padded)[: count // 2 + 1]
    resampled = np.fft.irfft(spectrum, count) * (count / len(padded))
    return resampled[: round(len(waveform) * SAMPLE_RATE / ESPEAK_RATE)]


def _loudness(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Speech at -30 to -14 dB (root mean square), over a room's noise 45 to 65 dB below it."""
    level = 10 ** (rng.uniform(-30, -14) / 20)
    scaled = waveform * level / max(float(np.sqrt(np.mean(waveform**2))), 1e-9)
    room = rng.normal(0, level * 10 ** (rng.uniform(-65, -45) / 20), len(waveform))
    return np.clip(scaled + room, -1, 1).astype(np.float32)
