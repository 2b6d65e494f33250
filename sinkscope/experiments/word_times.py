"""When each word of a synthetic clip is heard, from its phoneme timeline. Depends on numpy only.

espeak-ng tells the phonemes of a sentence but not where its words begin. The words are known, and
so is how each is said in one accent; an alignment of least edit cost carries the word boundaries
over to the phonemes of any other accent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sinkscope.avsr.clip import Phoneme
from sinkscope.errors import InputError

__all__ = ["SPOKEN", "HeardWord", "word_times"]

SPOKEN: dict[str, str] = {
    **{"bin": "b ɪ n", "lay": "l eɪ", "place": "p l eɪ s", "set": "s ɛ t"},
    **{"blue": "b l uː", "green": "ɡ ɹ iː n", "red": "ɹ ɛ d", "white": "w aɪ t"},
    **{"at": "æ t", "by": "b aɪ", "in": "ɪ n", "with": "w ɪ ð"},
    **{"a": "eɪ", "b": "b iː", "c": "s iː", "d": "d iː", "e": "iː", "f": "ɛ f", "g": "dʒ iː"},
    **{"h": "eɪ tʃ", "i": "aɪ", "j": "dʒ eɪ", "k": "k eɪ", "l": "ɛ l", "m": "ɛ m", "n": "ɛ n"},
    **{"o": "əʊ", "p": "p iː", "q": "k j uː", "r": "ɑː", "s": "ɛ s", "t": "t iː", "u": "j uː"},
    **{"v": "v iː", "x": "ɛ k s", "y": "w aɪ", "z": "z ɛ d"},
    **{"zero": "z iə ɹ əʊ", "one": "w ʌ n", "two": "t uː", "three": "θ ɹ iː", "four": "f ɔː"},
    **{"five": "f aɪ v", "six": "s ɪ k s", "seven": "s ɛ v ə n", "eight": "eɪ t"},
    **{"nine": "n aɪ n", "again": "ɐ ɡ ɛ n", "now": "n aʊ", "please": "p l iː z", "soon": "s uː n"},
}
"""The phonemes of each word of the grammar in British English."""

_VOWELS = frozenset("aeiouɑɐɒæɛəɜɔʌʊɪ")
_SKIP = 0.8
_OTHER_VOWEL, _OTHER_CONSONANT, _OTHER_CLASS = 0.4, 0.7, 1.5


@dataclass(frozen=True)
class HeardWord:
    """A word and the seconds it lasts."""

    word: str
    start: float
    end: float


def word_times(text: str, phonemes: Sequence[Phoneme]) -> list[HeardWord]:
    """The words of ``text`` with their seconds.

    Args:
        text: words of the grammar.
        phonemes: what was said, in time order.

    Raises:
        InputError: a word outside the grammar, or a word to which no phoneme fell.

    Example:
        >>> said = [Phoneme(p, i / 10, (i + 1) / 10) for i, p in enumerate("b ɪ n s uː n".split())]
        >>> [(word.word, word.end) for word in word_times("bin soon", said)]
        [('bin', 0.3), ('soon', 0.6)]
    """
    words = text.split()
    unknown = sorted(set(words) - SPOKEN.keys())
    if unknown:
        raise InputError(f"{unknown} are no words of the grammar; word_times knows only those.")
    expected = [(p, place) for place, word in enumerate(words) for p in SPOKEN[word].split()]
    owners = _owners(expected, [phoneme.label for phoneme in phonemes])
    heard = []
    for place, word in enumerate(words):
        own = [phoneme for phoneme, owner in zip(phonemes, owners, strict=True) if owner == place]
        if not own:
            raise InputError(f"No phoneme was left for word {place}, {word!r}; is the text right?")
        heard.append(HeardWord(word, own[0].start, own[-1].end))
    return heard


def _cost(expected: str, heard: str) -> float:
    if expected == heard:
        return 0.0
    vowels = (expected[0] in _VOWELS) + (heard[0] in _VOWELS)
    return (_OTHER_CONSONANT, _OTHER_CLASS, _OTHER_VOWEL)[vowels]


def _owners(expected: Sequence[tuple[str, int]], heard: Sequence[str]) -> list[int]:
    """The word that each phoneme belongs to, by dynamic programming over edits."""
    rows, columns = len(expected), len(heard)
    best = np.zeros((rows + 1, columns + 1))
    best[:, 0] = np.arange(rows + 1) * _SKIP
    best[0] = np.arange(columns + 1) * _SKIP
    for i, (phoneme, _) in enumerate(expected, start=1):
        for j, other in enumerate(heard, start=1):
            best[i, j] = min(
                best[i - 1, j - 1] + _cost(phoneme, other),
                best[i - 1, j] + _SKIP,
                best[i, j - 1] + _SKIP,
            )
    owners = [0] * columns
    i, j = rows, columns
    while j:
        owners[j - 1] = expected[max(i - 1, 0)][1]
        if i and best[i, j] == best[i - 1, j - 1] + _cost(expected[i - 1][0], heard[j - 1]):
            i, j = i - 1, j - 1
        elif i and best[i, j] == best[i - 1, j] + _SKIP:
            i -= 1
        else:
            j -= 1
    return owners
