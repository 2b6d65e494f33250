"""Which log-mel frames a sound's tokens are made of. Numpy only."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from sinkscope.errors import InputError
from sinkscope.subjects.multimodal.table import Given, StreamTokens

__all__ = ["chunked_frames", "heard", "masked_frames", "mel_lengths", "mel_step", "pairs"]

Edges = Int[np.ndarray, "frame 2"]
"""First log-mel frame of each frame of an encoder, and the one after its last."""


def mel_step(given: Given) -> float:
    """Seconds from one log-mel frame to the next: the processor's, or 10 ms."""
    extractor: Any = getattr(given.processor, "feature_extractor", None)
    hop, rate = (getattr(extractor, name, None) for name in ("hop_length", "sampling_rate"))
    return hop / rate if hop and rate else 0.01


def mel_lengths(given: Given, mask: str) -> list[int]:
    """Log-mel frames of each sound of a forward, padding left out.

    Args:
        given: what is known of the forward.
        mask: the argument that holds the mask of the log-mel frames.

    Raises:
        InputError: if the forward was not given it.
    """
    found = given.inputs.get(mask)
    if found is None:
        raise InputError(
            f"The forward has sounds but no {mask}, so how long they are is not known; give what "
            "the model's processor made."
        )
    return found.sum(-1).tolist()


def chunked_frames(length: int, *, chunk: int, halvings: int) -> Edges:
    """The log-mel frames of each frame of an encoder that convolves a sound chunk by chunk.

    A frame stands for those from its own place to the next frame's; the last one of a chunk, and
    of the sound, for what is left.

    Args:
        length: log-mel frames of the sound.
        chunk: log-mel frames of a chunk.
        halvings: convolutions that take two by two.

    Example:
        >>> chunked_frames(13, chunk=10, halvings=2).tolist()
        [[0, 4], [4, 8], [8, 10], [10, 13]]
    """
    frames = np.arange(length, dtype=np.int64)
    start = frames[(frames % chunk) % 2**halvings == 0]
    return np.stack([start, np.append(start[1:], length)[: len(start)]], axis=1)


def masked_frames(real: Bool[np.ndarray, "item frame"], *, step: float) -> list[StreamTokens]:
    """The real frames of each sound, each at its own place.

    Args:
        real: which of them are.
        step: seconds from one frame to the next.

    Example:
        >>> masked_frames(np.array([[True, True], [True, False]]), step=0.5)[0].seconds.tolist()
        [[0.0, 0.5], [0.5, 1.0]]
    """
    whole = StreamTokens.of_frames([real.shape[1]], step=step)
    found = []
    for item, row in enumerate(real):
        own = replace(whole, item=np.full(len(row), item, np.int64))
        found.append(own.take(np.flatnonzero(row)))
    return found


def pairs(edges: Edges) -> Int[np.ndarray, "pair 2"]:
    """Two frames each, joined by pooling; a last one without a partner is dropped.

    Example:
        >>> pairs(np.array([[0, 2], [2, 4], [4, 5]])).tolist()
        [[0, 4]]
    """
    whole = len(edges) // 2
    return np.stack([edges[: 2 * whole : 2, 0], edges[1 : 2 * whole : 2, 1]], axis=1)


def heard(sounds: Sequence[np.ndarray], *, step: float) -> StreamTokens:
    """The tokens of several sounds.

    Args:
        sounds: the log-mel frames of each token of each, first and the one after the last.
        step: seconds from one log-mel frame to the next.

    Example:
        >>> heard([np.array([[0, 4], [4, 6]])], step=0.01).seconds.tolist()
        [[0.0, 0.04], [0.04, 0.06]]
    """
    seconds: Float[np.ndarray, "token 2"] = step * np.concatenate([np.zeros((0, 2)), *sounds])
    blank = np.full(len(seconds), np.nan)
    item = np.repeat(np.arange(len(sounds)), [len(edges) for edges in sounds]).astype(np.int64)
    return StreamTokens(seconds, blank, blank, item)
