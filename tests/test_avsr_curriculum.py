"""Word times of synthetic clips, sentences cut out of them, and the dense labels."""

import numpy as np
import pytest
import torch

from sinkscope.avsr.clip import Phoneme
from sinkscope.avsr.inputs import IGNORED, Inputs, Span, token_times
from sinkscope.avsr.synthetic import vocabulary
from sinkscope.errors import InputError
from sinkscope.experiments.curriculum import Utterance, cut, heard_words, sentences_of
from sinkscope.experiments.word_times import SPOKEN, HeardWord, word_times

TEXT = "bin blue at f two now set red by x nine soon"


def timeline(phonemes: str, *, seconds: float = 0.1) -> list[Phoneme]:
    return [
        Phoneme(label, place * seconds, (place + 1) * seconds)
        for place, label in enumerate(phonemes.split())
    ]


def test_every_word_of_the_grammar_has_a_pronunciation() -> None:
    assert set(SPOKEN) == set(vocabulary())


def test_words_said_as_listed_end_where_their_last_phoneme_ends() -> None:
    said = " ".join(SPOKEN[word] for word in TEXT.split())
    found = word_times(TEXT, timeline(said))
    counts = np.cumsum([len(SPOKEN[word].split()) for word in TEXT.split()])
    assert [word.word for word in found] == TEXT.split()
    np.testing.assert_allclose([word.end for word in found], counts * 0.1)
    np.testing.assert_allclose([word.start for word in found[1:]], counts[:-1] * 0.1)


def test_another_accent_moves_no_boundary() -> None:
    # "at e" said with a tap, "again" without its vowel: as espeak-ng's American voices do
    found = word_times("lay red at e one again", timeline("l eɪ ɹ ɛ d æ ɾ iː w ʌ n ɡ ɛ n"))
    assert [round(word.end, 1) for word in found] == [0.2, 0.5, 0.7, 0.8, 1.1, 1.4]


@pytest.mark.parametrize(
    ("text", "phonemes", "says"),
    [("bin wardrobe", "b ɪ n", "wardrobe"), ("bin now", "b", "now|bin")],
)
def test_what_cannot_be_aligned_is_refused(text: str, phonemes: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        word_times(text, timeline(phonemes))


@pytest.fixture
def two_sentences() -> Utterance:
    """Words of 0.2 s; sentences at 0.4 to 1.6 s and 2.0 to 3.2 s; frames that tell their place."""
    words = [
        HeardWord(word, start, start + 0.2)
        for number, word in enumerate(TEXT.split())
        for start in [0.4 + 0.2 * number + (0.4 if number >= 6 else 0.0)]
    ]
    features = {
        "audio": torch.arange(180.0)[:, None],
        "video": torch.arange(90.0)[:, None],
    }
    return Utterance(features, words)


def test_a_sentence_is_cut_in_the_middle_of_the_pause(two_sentences: Utterance) -> None:
    assert sentences_of(two_sentences) == 2
    first, second = cut(two_sentences, 0, 1), cut(two_sentences, 1, 1)
    assert first.text == " ".join(TEXT.split()[:6])
    assert second.text == " ".join(TEXT.split()[6:])
    assert first.features["audio"][[0, -1], 0].tolist() == [0, 89]  # 1.8 s at 50 frames a second
    assert second.features["audio"][[0, -1], 0].tolist() == [90, 179]
    assert second.features["video"][[0, -1], 0].tolist() == [45, 89]
    np.testing.assert_allclose(second.words[0].start, 0.2, atol=1e-9)


def test_all_sentences_are_the_whole(two_sentences: Utterance) -> None:
    whole = cut(two_sentences, 0, 2)
    assert whole.text == two_sentences.text
    assert torch.equal(whole.features["video"], two_sentences.features["video"])


def test_a_token_is_labelled_with_the_last_word_that_ended() -> None:
    times = token_times(12, rate=4, frame_rate=50.0)  # of 80 ms: ends at .08, .16 … .96
    spans = [Span("bos", 0, 1), Span("audio", 1, 13, times), Span("prompt", 13, 15)]
    empty = torch.zeros(1, 15, 4)
    mask = torch.ones(1, 15, dtype=torch.bool)
    ids = torch.full((1, 15), -1)
    inputs = Inputs(empty, mask, torch.arange(15)[None], [spans], ids)
    said = [[HeardWord("bin", 0.0, 0.2), HeardWord("blue", 0.2, 0.4)]]
    labels = heard_words(inputs, said, {"bin": 7, "blue": 9})[0].tolist()
    # "bin" counts from .14 s, "blue" from .34 s until half a second later
    expected = [IGNORED, IGNORED, 7, 7, 7, 9, 9, 9, 9, 9, 9, IGNORED, IGNORED, IGNORED, IGNORED]
    assert labels == expected
