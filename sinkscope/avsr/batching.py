"""Batches of clips of like length, so that little of a batch is padding and none is too large.

Lengths come from the corpus's list or the files' headers: nothing is decoded to plan the batches.

```python
for found in load_batches(corpus.entries, max_frames=1500, workers=2):
    if isinstance(found, Batch):
        model.transcribe(found.clips)
```
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from sinkscope.avsr.clip import FRAME_RATE, Clip
from sinkscope.avsr.decode import open_media
from sinkscope.avsr.loading import load_clips
from sinkscope.avsr.manifest import Entry, Failure
from sinkscope.errors import InputError

__all__ = ["MAX_FRAMES", "Batch", "bucket", "frames_of", "load_batches"]

MAX_FRAMES = 1500
"""Picture frames (1/25 s) of a batch: a minute."""

BUCKET_FRAMES = 5
"""Clips whose lengths differ by less are shuffled with each other."""


@dataclass(frozen=True)
class Batch:
    """Some clips of a corpus.

    Attributes:
        numbers: their places in the corpus, 0-based.
        clips: the clips.
    """

    numbers: tuple[int, ...]
    clips: tuple[Clip, ...]


def frames_of(entry: Entry) -> int:
    """Picture frames (1/25 s) of a clip's longer stream, by its list or its header.

    A file whose header does not tell is read through, and still not decoded.

    Raises:
        InputError: the file is missing, or no media file.
    """
    if entry.frames is not None:
        return entry.frames
    paths = entry.source if isinstance(entry.source, tuple) else (entry.source,)
    return max(1, math.ceil(max(map(_seconds, paths)) * FRAME_RATE - 1e-6))


def bucket(
    lengths: Sequence[int],
    *,
    max_frames: int = MAX_FRAMES,
    padded: bool = True,
    seed: int | None = None,
) -> list[list[int]]:
    """Numbers of clips in batches of like length, none above ``max_frames``.

    A clip that is longer than that makes a batch of its own.

    Args:
        lengths: frames of each clip.
        max_frames: frames of a batch.
        padded: count the padding, too: clips times the longest; otherwise the sum of the lengths.
        seed: shuffles the batches, and clips of about the same length among them, as a training
            epoch needs it; None puts the longest first, so that what does not fit fails at once.

    Raises:
        InputError: ``max_frames`` is below 1.

    Examples:
        >>> bucket([10, 30, 10, 10], max_frames=30)
        [[1], [0, 2, 3]]
    """
    if max_frames < 1:
        raise InputError(f"A batch of {max_frames} frames was asked for; ask for at least 1.")
    rng = None if seed is None else np.random.default_rng(seed)
    coarse = 1 if rng is None else BUCKET_FRAMES
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    batches: list[list[int]] = []
    for number in sorted(order.tolist(), key=lambda number: -(lengths[number] // coarse)):
        if batches and _fits([lengths[one] for one in (*batches[-1], number)], max_frames, padded):
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches if rng is None else [batches[place] for place in rng.permutation(len(batches))]


def load_batches(
    entries: Sequence[Entry],
    *,
    max_frames: int = MAX_FRAMES,
    padded: bool = True,
    seed: int | None = None,
    **loading: Any,
) -> Iterator[Batch | Failure]:
    """Read a corpus in batches of like length; a clip that cannot be read is handed over as such.

    Where a header lied about its clip's length, the batch is split, so that none is too large.

    Args:
        entries: the clips.
        max_frames: frames of a batch, as `bucket` counts them.
        padded: as in `bucket`.
        seed: as in `bucket`.
        loading: ``workers``, ``ahead`` and ``read`` of `load_clips`.

    Raises:
        InputError: ``max_frames`` is below 1, or ``loading`` is wrong.
    """
    lengths = [_planned_length(entry) for entry in entries]
    plan = bucket(lengths, max_frames=max_frames, padded=padded, seed=seed)
    clips = load_clips((entries[number] for batch in plan for number in batch), **loading)
    return _batches(plan, clips, max_frames, padded)


def _batches(
    plan: Sequence[Sequence[int]],
    clips: Iterator[Clip | Failure],
    max_frames: int,
    padded: bool,
) -> Iterator[Batch | Failure]:
    """The planned batches with their clips; split where the clips are longer than planned."""
    for numbers in plan:
        kept: list[tuple[int, Clip]] = []
        for number in numbers:
            clip = next(clips)
            if isinstance(clip, Failure):
                yield clip
                continue
            lengths = [_true_length(one) for _, one in kept] + [_true_length(clip)]
            if kept and not _fits(lengths, max_frames, padded):
                yield _batch(kept)
                kept = []
            kept.append((number, clip))
        if kept:
            yield _batch(kept)


def _batch(kept: Sequence[tuple[int, Clip]]) -> Batch:
    return Batch(tuple(number for number, _ in kept), tuple(clip for _, clip in kept))


def _fits(lengths: Sequence[int], max_frames: int, padded: bool) -> bool:
    return (max(lengths) * len(lengths) if padded else sum(lengths)) <= max_frames


def _true_length(clip: Clip) -> int:
    return max(1, math.ceil(clip.duration * FRAME_RATE - 1e-6))


def _planned_length(entry: Entry) -> int:
    """A clip's length; that of one that cannot be opened does not matter, it will fail."""
    try:
        return frames_of(entry)
    except (InputError, OSError):
        return 1


def _seconds(path: Path) -> float:
    """Seconds of a file's longest stream by its header, or by its packets where it has none."""
    with open_media(path) as container:
        streams = (*container.streams.audio, *container.streams.video)
        told = [stream.duration * (stream.time_base or 0) for stream in streams if stream.duration]
        if told:
            return float(max(told))
        if container.duration:
            return container.duration / 1_000_000
        begin, end = None, Fraction(0)
        for packet in container.demux(streams):
            if packet.pts is not None and packet.time_base is not None:
                begin = packet.pts * packet.time_base if begin is None else begin
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
        return float(end - (begin or 0))
