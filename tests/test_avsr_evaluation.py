"""Word error rates against alignments counted by hand."""

import pytest

from sinkscope.avsr.evaluation import word_errors
from sinkscope.errors import InputError


def test_kinds_of_errors_are_told_apart() -> None:
    errors = word_errors(["a b c d", "e f"], ["a x c d", "e f g h"])
    assert (errors.substitutions, errors.deletions, errors.insertions) == (1, 0, 2)
    assert errors.words == 6
    assert errors.rate == pytest.approx(3 / 6)


def test_the_rate_is_of_the_corpus_and_not_a_mean_of_utterances() -> None:
    errors = word_errors(["a", "b c d e f g h i j"], ["x", "b c d e f g h i j"])
    assert errors.rate == pytest.approx(0.1)


def test_silence_deletes_and_case_and_spaces_do_not_count() -> None:
    errors = word_errors(["Bin  BLUE", "at"], [" bin blue ", ""])
    assert (errors.substitutions, errors.deletions, errors.insertions) == (0, 1, 0)


def test_reference_and_hypothesis_are_not_exchanged() -> None:
    errors = word_errors(["a b c"], ["a"])
    assert (errors.deletions, errors.insertions, errors.words) == (2, 0, 3)


def test_the_interval_holds_the_rate_and_shrinks_with_more_utterances() -> None:
    few = word_errors(["a b"] * 10, ["a b", "a x"] * 5)
    many = word_errors(["a b"] * 1000, ["a b", "a x"] * 500)
    for errors in (few, many):
        assert errors.interval[0] <= errors.rate <= errors.interval[1]
    assert few.interval[1] - few.interval[0] > 3 * (many.interval[1] - many.interval[0])
    assert word_errors(["a"] * 5, ["a"] * 5).interval == (0.0, 0.0)
    assert word_errors(["a b"] * 10, ["a b", "a x"] * 5).interval == few.interval


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(InputError, match="1 transcripts for 2"):
        word_errors(["a", "b"], ["a"])
    with pytest.raises(InputError, match="no word"):
        word_errors(["a", "  "], ["a", "b"])
    with pytest.raises(InputError, match="no word"):
        word_errors([], [])
