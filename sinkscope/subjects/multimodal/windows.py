"""Long sounds that enter an encoder as windows of one length, a row of its input each.

A forward is not told which windows belong to one sound. But a sound's placeholders stand in one
run, and only its last window may be part-filled: so a new sound begins where a run begins, and
after a window that is not full.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int

from sinkscope.subjects.given import real_tokens
from sinkscope.subjects.multimodal.table import Given, StreamTokens, token_id

__all__ = ["Window", "run_starts", "tokens_of_windows", "windows_of"]


@dataclass(frozen=True)
class Window:
    """Where a window stands.

    Attributes:
        sound: which sound it is cut from, counted from 0.
        place: which of the sound's windows it is, from 0.
    """

    sound: int
    place: int


def run_starts(given: Given, placeholder: str) -> Bool[np.ndarray, " placeholder"]:
    """For each placeholder of a forward, sample by sample: whether it is the first of a run."""
    ids: Int[np.ndarray, "sample token"] = given.inputs["input_ids"].detach().cpu().numpy()
    real = real_tokens(given.inputs["input_ids"], given.inputs.get("attention_mask"))
    here = (ids == token_id(placeholder, given.config)) & real
    before = np.pad(here[:, :-1], ((0, 0), (1, 0)))
    return ~before[here]


def windows_of(
    starts: Bool[np.ndarray, " placeholder"], counts: Sequence[int], *, full: int
) -> list[Window]:
    """Which sound each window is cut from.

    Args:
        starts: for each placeholder, whether a run begins there.
        counts: the number of tokens of each window.
        full: how many tokens a window makes that is filled to its end.

    Example:
        >>> starts = np.array([True, False, False, True, False])
        >>> [(one.sound, one.place) for one in windows_of(starts, [2, 1, 2], full=2)]
        [(0, 0), (0, 1), (1, 0)]
    """
    found: list[Window] = []
    begin, filled = 0, False
    for count in counts:
        own_run = count > 0 and begin < len(starts) and bool(starts[begin])
        if not found:
            found.append(Window(0, 0))
        elif own_run or not filled:
            found.append(Window(found[-1].sound + 1, 0))
        else:
            found.append(Window(found[-1].sound, found[-1].place + 1))
        begin, filled = begin + count, count == full
    return found


def tokens_of_windows(
    windows: Sequence[Window], counts: Sequence[int], *, step: float, duration: float
) -> list[StreamTokens]:
    """What each window's tokens are.

    Args:
        windows: where each window stands.
        counts: how many tokens it makes.
        step: seconds from one token to the next.
        duration: seconds from one window of a sound to the next.
    """
    made = []
    for window, count in zip(windows, counts, strict=True):
        tokens = StreamTokens.of_frames([count], step=step, first=window.place * duration)
        made.append(replace(tokens, item=np.full(count, window.sound, np.int64)))
    return made
