"""Clips of a corpus, one after the other, read when they are asked for and never all at once.

Worker processes read ahead by a bounded number of clips and keep the order. What goes wrong with a
clip, be it a damaged file or a reader that crashes, is that clip's ``Failure``; the others go on.

```python
for found in load_clips(read_corpus("lrs3/test").entries, workers=2):
    print(found.reason if isinstance(found, Failure) else found.text)
```
"""

import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import cv2

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.manifest import Entry, Failure
from sinkscope.avsr.media import read_clip
from sinkscope.errors import InputError

__all__ = ["load_clip", "load_clips"]

Reader = Callable[[Entry], Clip]
"""Reads one clip; anything it raises is that clip's failure."""


def load_clip(entry: Entry, *, crop: str = "auto") -> Clip:
    """Read one clip of a corpus.

    Args:
        entry: the clip as its corpus lists it, with its landmarks where it has any.
        crop: how to crop, as `read_clip` takes it.

    Raises:
        InputError: the clip cannot be read; the message names its row, where it has one.
    """
    try:
        return read_clip(entry.source, text=entry.text, crop=crop, landmarks=entry.landmarks)
    except InputError as error:
        raise InputError(f"{entry.row}: {error}" if entry.row else str(error)) from error


def load_clips(
    entries: Iterable[Entry],
    *,
    workers: int = 0,
    ahead: int = 4,
    read: Reader = load_clip,
) -> Iterator[Clip | Failure]:
    """Read the clips of a corpus in their order: for each entry its clip, or why there is none.

    At most ``workers + ahead`` clips are in memory beside the caller's own, whatever the corpus's
    size. A worker is a new Python process (about 100 MiB), so a script that uses workers needs its
    ``if __name__ == "__main__":``.

    Args:
        entries: the clips; taken one by one, too.
        workers: processes that read; 0 reads in this one, when the clip is asked for.
        ahead: clips that may be ready, or be waited for, beyond one for each worker.
        read: what reads a clip, ``functools.partial(load_clip, crop="face")`` for instance; with
            workers it must be a function that a pickle can name.

    Raises:
        InputError: ``workers`` or ``ahead`` is below 0, or worker processes cannot start.
    """
    if workers < 0 or ahead < 0:
        raise InputError(
            f"{workers} workers that read {ahead} clips ahead were asked for; give numbers from 0."
        )
    if workers == 0:
        return map(partial(_attempt, read), entries)
    _refuse_unnamed(read)
    return _Workers(read, workers).read(entries, limit=workers + ahead)


def _attempt(read: Reader, entry: Entry) -> Clip | Failure:
    """A clip, or why there is none."""
    try:
        return read(entry)
    except InputError as error:
        reason = str(error)
    except Exception as error:  # one clip must not end the run, whatever its file does
        reason = f"{entry.path} cannot be read ({type(error).__name__}: {error}); leave it out."
    return Failure(entry.source, " ".join(reason.split()))


def _refuse_unnamed(read: Reader) -> None:
    try:
        pickle.dumps(read)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"Worker processes cannot be handed {read!r} ({error}); use a function that stands in "
            "a module, or no workers."
        ) from error


class _Workers:
    """Processes that read clips; new ones where one has died."""

    def __init__(self, read: Reader, workers: int) -> None:
        self._read = read
        self._workers = workers

    def read(self, entries: Iterable[Entry], *, limit: int) -> Iterator[Clip | Failure]:
        """Clips in order; at most ``limit`` are begun and not yet handed over."""
        waiting: deque[tuple[Entry, Future[Clip | Failure]]] = deque()
        self._pool = _pool(self._workers)
        try:
            _refuse_stillborn(self._pool)
            for entry in entries:
                waiting.append((entry, self._begin(entry)))
                if len(waiting) == limit:
                    yield self._finish(*waiting.popleft())
            while waiting:
                yield self._finish(*waiting.popleft())
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _begin(self, entry: Entry) -> Future[Clip | Failure]:
        try:
            return self._pool.submit(_attempt, self._read, entry)
        except BrokenProcessPool:
            self._pool.shutdown()
            self._pool = _pool(self._workers)
            return self._pool.submit(_attempt, self._read, entry)

    def _finish(self, entry: Entry, future: Future[Clip | Failure]) -> Clip | Failure:
        """What was read; where a process died meanwhile, the clip is read again, alone."""
        try:
            return future.result()
        except BrokenProcessPool:
            with _pool(1) as pool:
                return self._finish_alone(entry, pool.submit(_attempt, self._read, entry))

    def _finish_alone(self, entry: Entry, future: Future[Clip | Failure]) -> Clip | Failure:
        try:
            return future.result()
        except BrokenProcessPool:
            reason = f"{entry.path} cannot be read: the process that reads it dies; leave it out."
            return Failure(entry.source, reason)


def _pool(workers: int) -> ProcessPoolExecutor:
    """Processes that start anew: a fork would copy the threads' locks, and a model's memory."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)


def _refuse_stillborn(pool: ProcessPoolExecutor) -> None:
    """A caller whose workers cannot start would find every clip bad."""
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool as error:
        raise InputError(
            "Worker processes cannot start here: put what calls load_clips below if __name__ == "
            "'__main__': in a script that is a file, or use no workers."
        ) from error


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller's interrupt ends the caller's loop
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_caller, daemon=True).start()


def _end_with_caller() -> None:
    """A caller that was killed cannot end its workers: they see to it themselves."""
    caller = multiprocessing.parent_process()
    if caller is not None:
        caller.join()
        os._exit(1)
