"""Lock a file while something is made beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sinkscope.errors import InputError

__all__ = ["held"]


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Lock a file; the lock ends with the process, however it ends.

    Raises:
        InputError: another process holds it.
    """
    import fcntl

    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{file.parent} is being trained in by another process; wait for its end, or "
                "choose another folder."
            ) from error
        yield
