"""Sentences first, whole utterances later, and a dense target: the word that was just heard.

A tiny model learns to listen much sooner from one sentence than from four, and sooner still when
every audio and video token, and not the transcript alone, has a word to predict: the last one that
was finished (the word times are known, the corpus is synthetic). The dense loss is for training
only; nothing of it remains in the model. Depends on torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from sinkscope.avsr.inputs import IGNORED, Inputs
from sinkscope.experiments.tiny_features import Features
from sinkscope.experiments.word_times import HeardWord

__all__ = ["Utterance", "cut", "heard_words", "sentences_of"]

WORDS = 6
"""Words of a sentence of the grammar."""

_FRAMES = {"audio": 50, "video": 25}
_EARLY = 0.06
_REMEMBERED = 0.5


@dataclass(frozen=True)
class Utterance:
    """Cached features of some sentences, what they say, and when.

    Attributes:
        features: encoder frames by stream.
        words: the words, in seconds from the first frame.
    """

    features: Features
    words: list[HeardWord]

    @property
    def text(self) -> str:
        """What is said, as one line."""
        return " ".join(word.word for word in self.words)


def sentences_of(whole: Utterance) -> int:
    """The number of sentences.

    >>> sentences_of(Utterance({}, [HeardWord("bin", 0.0, 0.2)] * 12))
    2
    """
    return len(whole.words) // WORDS


def cut(whole: Utterance, first: int, count: int) -> Utterance:
    """Sentences ``first`` to ``first + count``, cut in the middle of the pauses around them."""
    own = whole.words[WORDS * first : WORDS * (first + count)]
    before = whole.words[: WORDS * first]
    after = whole.words[WORDS * (first + count) :]
    start = (before[-1].end + own[0].start) / 2 if before else 0.0
    features = {}
    for stream, frames in whole.features.items():
        rate = _FRAMES[stream]
        stop = round((own[-1].end + after[0].start) / 2 * rate) if after else len(frames)
        features[stream] = frames[round(start * rate) : stop]
    words = [HeardWord(word.word, word.start - start, word.end - start) for word in own]
    return Utterance(features, words)


def heard_words(
    inputs: Inputs, said: Sequence[Sequence[HeardWord]], vocabulary: dict[str, int]
) -> Int64[Tensor, "sample token"]:
    """The word that each audio and video token has just heard the end of; ``IGNORED`` elsewhere.

    A word counts as heard from 60 ms before its end, for as long as no other word is heard and at
    most for half a second.
    """
    labels = torch.full(inputs.token_ids.shape, IGNORED)
    for row, (spans, words) in enumerate(zip(inputs.spans, said, strict=True)):
        ends = np.array([word.end - _EARLY for word in words])
        ids = np.array([vocabulary[word.word] for word in words])
        for span in spans:
            if span.times is None:
                continue
            now = span.times[:, 1]
            last = np.searchsorted(ends, now, side="right") - 1
            recent = (last >= 0) & (now - ends[np.maximum(last, 0)] < _REMEMBERED)
            heard = np.where(recent, ids[np.maximum(last, 0)], IGNORED)
            labels[row, span.start : span.stop] = torch.from_numpy(heard)
    return labels
