"""Windows of text in which attention is needed only sometimes, so that heads need a place to rest.

The bigram-backcopy task (Guo et al. 2024, arXiv 2410.13835, section 2): every symbol is drawn from
the bigram distribution of the one before it, except after a *trigger*, where a symbol from a fixed
offset before the trigger is copied. A head that copies has nothing to do at the other positions.
Two things are added here: some windows repeat one of their segments, and some hold sentences in
place of symbols.
Every window begins with BOS. Depends on numpy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

__all__ = ["Backcopy", "bigram_table", "symbols"]

_CONSONANTS = "bdfghjklmnprstvz"
_VOWELS = "aeiouy"


def symbols() -> list[str]:
    """The 96 nonsense syllables of the task: consonant, vowel and a closing x.

    >>> symbols()[:3], len(set(symbols()))
    (['bax', 'bex', 'bix'], 96)
    """
    return [c + v + "x" for c in _CONSONANTS for v in _VOWELS]


def bigram_table(
    size: int, *, concentration: float = 0.05, seed: int = 0
) -> Float64[np.ndarray, "symbol following"]:
    """Cumulative bigram probabilities, one Dirichlet row a symbol."""
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.full(size, concentration), size=size)
    table = np.cumsum(rows, axis=1)
    table[:, -1] = 1.0
    return table


@dataclass(frozen=True)
class Backcopy:
    """The task's parameters.

    Attributes:
        bos: token id that opens every window.
        tokens: token ids of the symbols; the first ``triggers`` of them are triggers.
        triggers: number of trigger symbols, shared out evenly among the offsets.
        offsets: how far before the trigger the copied symbol lies (1: just before it).
        trigger_share: lowest and highest share of triggers in a window, 0 to 1; uniform between.
        repeat_share: share of windows in which a segment comes twice.
        segment: shortest and longest repeated segment, in tokens.
        seed: of the bigram table.
    """

    bos: int
    tokens: Sequence[int]
    triggers: int = 8
    offsets: tuple[int, ...] = (1, 2)
    trigger_share: tuple[float, float] = (0.05, 0.35)
    repeat_share: float = 0.4
    segment: tuple[int, int] = (8, 20)
    seed: int = 0

    def windows(
        self, count: int, length: int, *, rng: np.random.Generator
    ) -> Int64[np.ndarray, "sample token"]:
        """Draws windows of token ids.

        Args:
            count: windows.
            length: tokens a window, BOS included.
            rng: the source of all randomness but the bigram table's.
        """
        chain = self._chain(count, length - 1, rng)
        self._repeat(chain, rng)
        ids = np.asarray(self.tokens)[chain]
        return np.concatenate([np.full((count, 1), self.bos), ids], axis=1)

    def offset_of(self, trigger: int) -> int:
        """The offset that a trigger symbol (0 to ``triggers`` - 1) copies from."""
        return self.offsets[trigger % len(self.offsets)]

    def _chain(
        self, count: int, length: int, rng: np.random.Generator
    ) -> Int64[np.ndarray, "sample token"]:
        size = len(self.tokens) - self.triggers
        table = bigram_table(size, seed=self.seed)
        share = rng.uniform(*self.trigger_share, size=count)
        back = np.array([self.offset_of(i) for i in range(self.triggers)])
        chain = np.empty((count, length), dtype=np.int64)
        chain[:, 0] = self.triggers + rng.integers(size, size=count)
        last = chain[:, 0].copy()  # the newest symbol that is not a trigger
        row = np.arange(count)
        for step in range(1, length):
            previous = chain[:, step - 1]
            after = previous < self.triggers
            draw = rng.random(count)
            following = (table[last - self.triggers] < draw[:, None]).sum(1) + self.triggers
            source = step - 1 - back[np.minimum(previous, self.triggers - 1)]
            copied = chain[row, np.maximum(source, 0)]
            copied = np.where(copied < self.triggers, last, copied)
            trigger = rng.integers(self.triggers, size=count)
            is_trigger = (rng.random(count) < share) & ~after & (step > max(self.offsets))
            new = np.where(after, copied, np.where(is_trigger, trigger, following))
            chain[:, step] = new
            last = np.where(new < self.triggers, last, new)
        return chain

    def _repeat(self, chain: Int64[np.ndarray, "sample token"], rng: np.random.Generator) -> None:
        length = chain.shape[1]
        for row in np.flatnonzero(rng.random(len(chain)) < self.repeat_share):
            size = int(rng.integers(self.segment[0], min(self.segment[1], length // 2) + 1))
            first = int(rng.integers(0, length - 2 * size + 1))
            second = int(rng.integers(first + size, length - size + 1))
            chain[row, second : second + size] = chain[row, first : first + size]
