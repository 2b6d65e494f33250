"""Which clips make which batch, and every random draw of a run. Depends on numpy.

Each draw has a generator of its own, made of (seed, what for, epoch, index): nothing depends on
what was drawn before, so a run that was stopped draws what an unbroken one does.
"""

from collections.abc import Sequence

import numpy as np

from sinkscope.avsr.batching import bucket

__all__ = ["BATCH", "CLIP", "Plan", "generator"]

ORDER, BATCH, CLIP = range(3)
"""What a generator is for: the order of an epoch, a batch's choices, a clip's."""


def generator(seed: int, what: int, epoch: int, index: int = 0) -> np.random.Generator:
    """The generator of one draw.

    >>> one, other = generator(0, CLIP, 3, 7), generator(0, CLIP, 3, 7)
    >>> bool(one.random() == other.random())
    True
    """
    return np.random.default_rng([seed, what, epoch, index])


class Plan:
    """The batches of all epochs, one after the other, made when they are asked for.

    Args:
        lengths: picture frames of each clip.
        max_frames: frames of a batch, padding counted.
        seed: of the order.

    >>> plan = Plan([10, 10, 10], max_frames=20, seed=0)
    >>> epoch, place, members = plan.at(3)
    >>> epoch, place, sorted(sum((plan.at(i)[2] for i in (2, 3)), []))
    (1, 1, [0, 1, 2])
    """

    def __init__(self, lengths: Sequence[int], *, max_frames: int, seed: int) -> None:
        self._lengths = list(lengths)
        self._max_frames = max_frames
        self._seed = seed
        self._epochs: list[list[list[int]]] = []
        self._before: list[int] = [0]

    def at(self, number: int) -> tuple[int, int, list[int]]:
        """Epoch, place in it and clips of a batch, counted over all epochs from 0."""
        while self._before[-1] <= number:
            self._add()
        epoch = int(np.searchsorted(self._before, number, side="right")) - 1
        place = number - self._before[epoch]
        return epoch, place, self._epochs[epoch][place]

    def _add(self) -> None:
        epoch = len(self._epochs)
        seed = int(generator(self._seed, ORDER, epoch).integers(2**62))
        batches = bucket(self._lengths, max_frames=self._max_frames, seed=seed)
        self._epochs.append(batches)
        self._before.append(self._before[-1] + len(batches))
