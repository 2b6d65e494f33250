"""A folder that is written whole or not at all, and what runs put into one."""

import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sinkscope.errors import InputError
from sinkscope.reports.figures import RunFigure

__all__ = ["refuse_existing", "whole_folder", "write_parts"]


@contextmanager
def whole_folder(folder: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary sibling to write to; it gets the name at the end if nothing failed.

    Args:
        folder: where; its parents are made.
        overwrite: replace an older run that has the name.

    Raises:
        InputError: if something stands there and must not be replaced.
    """
    folder = Path(folder)
    refuse_existing(folder, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        _swap(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_parts(
    folder: Path,
    *,
    tables: Mapping[str, pd.DataFrame],
    figures: Iterable[RunFigure],
    page: str,
    run: Mapping[str, Any],
) -> None:
    """Write ``tables/*.csv``, ``figures/*.png``, ``report.html`` and ``run.json``."""
    (folder / "tables").mkdir()
    for name, table in tables.items():
        table.to_csv(folder / "tables" / f"{name}.csv", index=False)
    (folder / "figures").mkdir()
    for figure in figures:
        (folder / "figures" / f"{figure.name}.png").write_bytes(figure.png)
    (folder / "report.html").write_text(page, encoding="utf-8")
    content = json.dumps(_plain(run), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "run.json").write_text(content + "\n", encoding="utf-8")


TRAINED = ("model", "checkpoints")
"""Folders that a training run holds and that no report does."""


def refuse_existing(folder: str | Path, *, overwrite: bool = False) -> None:
    """Refuse a folder that holds something: an older run unless it may be replaced, or no run.

    Raises:
        InputError: saying what stands there.
    """
    folder = Path(folder)
    if folder.is_dir():
        if not any(folder.iterdir()):
            return
        if not (folder / "run.json").is_file():
            raise InputError(f"{folder} holds files that are no run; choose another folder.")
        kept = [name for name in TRAINED if (folder / name).exists()]
        if kept:
            raise InputError(
                f"{folder} holds a training run ({kept[0]}/ is in it), which is never overwritten; "
                "choose another folder."
            )
        if folder.resolve() == Path.cwd():
            raise InputError(f"{folder} is the folder that the command runs in; choose another.")
        if not overwrite:
            raise InputError(f"{folder} holds an older run; choose another name or overwrite it.")
    elif folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} is a file; name a folder for the run.")


def _plain(value: Any) -> Any:
    """The value as JSON knows it; NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _swap(temporary: Path, folder: Path) -> None:
    """Give the new run its name; an older one goes only once the new one is whole."""
    if not folder.exists():
        temporary.replace(folder)
        return
    older = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    folder.replace(older / "run")
    try:
        temporary.replace(folder)
    except OSError:
        (older / "run").replace(folder)
        raise
    finally:
        shutil.rmtree(older, ignore_errors=True)
