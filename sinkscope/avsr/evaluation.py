"""Word error rates, through jiwer, with a bootstrap interval over utterances.

Example:
    >>> errors = word_errors(["bin blue at f"], ["bin red at f now"])
    >>> errors.words, errors.substitutions, errors.insertions, errors.rate
    (4, 1, 1, 0.5)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

from sinkscope.errors import InputError

__all__ = ["WordErrors", "word_errors"]

DRAWS = 2000


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


def word_errors(
    references: Sequence[str], hypotheses: Sequence[str], *, seed: int = 0
) -> WordErrors:
    """The word errors of a corpus: case is ignored, words are split at white space.

    Args:
        references: what was said.
        hypotheses: what was understood, one for each reference.
        seed: of the bootstrap.

    Raises:
        InputError: if their numbers differ, or there is no reference word.
    """
    if len(references) != len(hypotheses):
        raise InputError(f"{len(hypotheses)} transcripts for {len(references)} references.")
    said = [" ".join(text.lower().split()) for text in references]
    heard = [" ".join(text.lower().split()) for text in hypotheses]
    silent = [number for number, text in enumerate(said) if not text]
    if silent or not said:
        raise InputError(f"Reference {silent[0] if silent else 0} has no word; leave it out.")
    rows = [jiwer.process_words(r, h) for r, h in zip(said, heard, strict=True)]
    wrong = np.array([row.substitutions + row.deletions + row.insertions for row in rows])
    words = np.array([len(text.split()) for text in said])
    drawn = np.random.default_rng(seed).integers(0, len(said), (DRAWS, len(said)))
    rates = wrong[drawn].sum(1) / words[drawn].sum(1)
    low, high = np.quantile(rates, [0.025, 0.975])
    return WordErrors(
        words=int(words.sum()),
        substitutions=sum(row.substitutions for row in rows),
        deletions=sum(row.deletions for row in rows),
        insertions=sum(row.insertions for row in rows),
        interval=(float(low), float(high)),
    )
