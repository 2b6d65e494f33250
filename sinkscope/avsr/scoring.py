"""Word error rates, through jiwer, with a bootstrap interval over utterances.

Case is ignored and words are split at white space; nothing else is normalised.

Example:
    >>> errors = word_errors(["bin blue at f"], ["bin red at f now"])
    >>> errors.words, errors.substitutions, errors.insertions, errors.rate
    (4, 1, 1, 0.5)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np
from jaxtyping import Float64

from sinkscope.errors import InputError

__all__ = ["UtteranceErrors", "WordErrors", "corpus_errors", "utterance_errors", "word_errors"]

DRAWS = 2000
CELLS = 10_000_000
"""Drawn utterances that are held at once."""


@dataclass(frozen=True)
class UtteranceErrors:
    """Errors in one utterance.

    Attributes:
        words: reference words.
        substitutions: words that were taken for others.
        deletions: words that are missing.
        insertions: words that were not said.
    """

    words: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def wrong(self) -> int:
        """All errors."""
        return self.substitutions + self.deletions + self.insertions


@dataclass(frozen=True)
class WordErrors:
    """Errors over a corpus.

    Attributes:
        words: reference words.
        substitutions: words that were taken for others.
        deletions: words that are missing.
        insertions: words that were not said.
        interval: 95 % bootstrap interval of the rate, over utterances.
    """

    words: int
    substitutions: int
    deletions: int
    insertions: int
    interval: tuple[float, float]

    @property
    def rate(self) -> float:
        """All errors over reference words; above 1 where much is inserted."""
        return (self.substitutions + self.deletions + self.insertions) / self.words


def utterance_errors(reference: str, hypothesis: str) -> UtteranceErrors:
    """The word errors of one utterance.

    Args:
        reference: what was said.
        hypothesis: what was understood.

    Raises:
        InputError: the reference has no word.

    Example:
        >>> utterance_errors("bin blue", "BIN").deletions
        1
    """
    said, heard = (" ".join(text.lower().split()) for text in (reference, hypothesis))
    if not said:
        raise InputError("The reference has no word; leave the utterance out.")
    found = jiwer.process_words(said, heard)
    return UtteranceErrors(
        len(said.split()), found.substitutions, found.deletions, found.insertions
    )


def corpus_errors(rows: Sequence[UtteranceErrors], *, seed: int = 0) -> WordErrors:
    """The word errors of a corpus: sums over utterances, and a percentile bootstrap over them.

    The interval is that of the rate of as many utterances, drawn 2,000 times with replacement. It
    is a point where no utterance has an error.

    Args:
        rows: one for each utterance.
        seed: of the bootstrap.

    Raises:
        InputError: there is no utterance.
    """
    if not rows:
        raise InputError("There is no utterance, so there is no word error rate; give one.")
    rates = _drawn_rates(rows, np.random.default_rng(seed))
    low, high = np.quantile(rates, [0.025, 0.975])
    return WordErrors(
        words=sum(row.words for row in rows),
        substitutions=sum(row.substitutions for row in rows),
        deletions=sum(row.deletions for row in rows),
        insertions=sum(row.insertions for row in rows),
        interval=(float(low), float(high)),
    )


def word_errors(
    references: Sequence[str], hypotheses: Sequence[str], *, seed: int = 0
) -> WordErrors:
    """The word errors of a corpus.

    Args:
        references: what was said.
        hypotheses: what was understood, one for each reference.
        seed: of the bootstrap.

    Raises:
        InputError: if their numbers differ, or there is no reference word.
    """
    if len(references) != len(hypotheses):
        raise InputError(f"{len(hypotheses)} transcripts for {len(references)} references.")
    silent = [number for number, text in enumerate(references) if not text.split()]
    if silent or not references:
        raise InputError(f"Reference {silent[0] if silent else 0} has no word; leave it out.")
    pairs = zip(references, hypotheses, strict=True)
    return corpus_errors([utterance_errors(*pair) for pair in pairs], seed=seed)


def _drawn_rates(
    rows: Sequence[UtteranceErrors], rng: np.random.Generator
) -> Float64[np.ndarray, " draw"]:
    """The rate of each bootstrap draw, a part of the draws at a time."""
    wrong = np.array([row.wrong for row in rows])
    words = np.array([row.words for row in rows])
    step = max(1, CELLS // len(rows))
    rates = []
    for start in range(0, DRAWS, step):
        drawn = rng.integers(0, len(rows), (min(step, DRAWS - start), len(rows)))
        rates.append(wrong[drawn].sum(1) / words[drawn].sum(1))
    return np.concatenate(rates)
