"""Manifests: a text file that lists clips. Opens none of them.

Three forms are read:

* ``.txt`` or ``.lst``: one media file a line;
* ``.csv`` with a header: a ``path`` column, and perhaps ``text``;
* ``.csv`` of Llama-AVSR, without header: ``dataset_name,rel_path,input_length,token_ids,text``.
  The clip is ``root/dataset_name/rel_path``, its sound a ``.wav`` of the same stem where one is;
  ``input_length`` counts picture frames, ``token_ids`` are left alone.

Relative paths are taken from ``root``: by default the manifest's folder or, of five columns, the
folder that holds ``labels/`` where the manifest lies in one.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from sinkscope.errors import InputError

__all__ = ["Corpus", "Entry", "Failure", "name_below", "read_corpus_manifest", "read_manifest"]

COLUMNS = ("dataset_name", "rel_path", "input_length", "token_ids", "text")
"""The five columns of Llama-AVSR's lists, which have no header."""

Source = Path | tuple[Path, Path]
"""A media file, or a sound file and a picture file."""


@dataclass(frozen=True)
class Entry:
    """One clip of a corpus, which is not opened yet.

    Attributes:
        source: a media file or a (sound, picture) pair.
        text: what is said, where known.
        frames: picture frames (1/25 s) as the manifest says, None where it does not.
        name: the path below the corpus's root, without suffix: ``"lrs3/test/abc/00001"``.
        row: where the clip is listed, for messages: ``"test.csv, row 7"``, or ``""``.
        landmarks: a file of face landmarks, one for each frame, where there is one.
    """

    source: Source
    text: str | None = None
    frames: int | None = None
    name: str = ""
    row: str = ""
    landmarks: Path | None = None

    @property
    def path(self) -> Path:
        """The media file, the picture of a pair."""
        return self.source[1] if isinstance(self.source, tuple) else self.source


class Failure(NamedTuple):
    """A clip that could not be used, and why, in one sentence."""

    source: Path | tuple[Path, Path] | None
    reason: str


class Corpus(NamedTuple):
    """The clips of a corpus, and what is listed there but cannot be one."""

    entries: list[Entry]
    failures: list[Failure]


def read_manifest(
    path: str | PathLike[str], *, root: str | PathLike[str] | None = None
) -> list[Entry]:
    """The clips that a manifest lists, in its order; no file is opened but the manifest.

    Args:
        path: the manifest.
        root: the folder that relative paths start from.

    Raises:
        InputError: if the manifest is missing, empty or of no known form, or has a bad row (too
            few columns, a missing file); the message names the row.
    """
    entries = []
    for found in _rows(Path(path), root):
        if isinstance(found, Failure):
            raise InputError(found.reason)
        entries.append(found)
    return entries


def read_corpus_manifest(
    path: str | PathLike[str], *, root: str | PathLike[str] | None = None
) -> Corpus:
    """The clips that a manifest lists, and its bad rows beside them.

    Args:
        path: the manifest.
        root: the folder that relative paths start from.

    Raises:
        InputError: if the manifest is missing, empty or of no known form, or every row is bad.
    """
    found = list(_rows(Path(path), root))
    failures = [one for one in found if isinstance(one, Failure)]
    if len(failures) == len(found):
        raise InputError(f"{failures[0].reason} All {len(found)} rows of the manifest are bad.")
    return Corpus([one for one in found if isinstance(one, Entry)], failures)


def _rows(manifest: Path, root: str | PathLike[str] | None) -> Iterator[Entry | Failure]:
    """Every row as an entry, or why it is none."""
    rows = _lines(manifest)
    is_csv = manifest.suffix.lower() == ".csv"
    header = [name.strip() for name in _fields(rows[0][1])] if is_csv else []
    named = "path" in header
    if named and len(rows) == 1:
        raise InputError(f"{manifest} has a header and no rows; list one clip a row.")
    folder = _root(manifest, labels=bool(header) and not named) if root is None else Path(root)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; give the root of {manifest.name}.")
    for number, line in rows[named:]:
        where = f"{manifest}, row {number}"
        try:
            entry = _entry(line, header if named else None, folder, five=bool(header))
        except (InputError, csv.Error) as error:
            yield Failure(None, f"{where}: {error}")
            continue
        if not _is_file(entry.path):
            reason = f"{where}: there is no file {entry.path}; mend the row or the root."
            yield Failure(entry.source, reason)
            continue
        yield replace(entry, row=where, name=name_below(folder, entry.path))


def name_below(root: Path, path: Path) -> str:
    """A file's path below a folder without its suffix; its stem where it lies elsewhere.

    >>> name_below(Path("lrs3"), Path("lrs3/test/abc/00001.mp4"))
    'test/abc/00001'
    """
    inside = path.is_relative_to(root)
    return (path.relative_to(root) if inside else Path(path.name)).with_suffix("").as_posix()


def _entry(line: str, header: list[str] | None, root: Path, *, five: bool) -> Entry:
    """A row as it is written, whether its file is there or not."""
    if header:
        return _with_header(header, line, root)
    return _of_five(line, root) if five else Entry(root / line.strip())


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a row of prose is too long for a file's name
        return False


def _lines(manifest: Path) -> list[tuple[int, str]]:
    """The rows that are not empty, with their numbers from 1."""
    if not manifest.is_file():
        raise InputError(f"{manifest}: there is no such manifest; check the path.")
    try:
        lines = manifest.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{manifest}: a manifest is UTF-8 text, and this file is not.") from error
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise InputError(f"{manifest}: the manifest is empty; list one clip a row.")
    return rows


def _root(manifest: Path, *, labels: bool) -> Path:
    folder = manifest.parent
    return folder.parent if labels and folder.name == "labels" else folder


def _fields(line: str) -> list[str]:
    return next(csv.reader([line.rstrip("\r")]))


def _with_header(header: list[str], line: str, root: Path) -> Entry:
    row = dict(zip(header, _fields(line), strict=False))
    if not row.get("path"):
        raise InputError("the path is empty; name a media file.")
    return Entry(root / row["path"], row.get("text") or None)


def _of_five(line: str, root: Path) -> Entry:
    fields = _fields(line)
    if len(fields) != len(COLUMNS):
        raise InputError(
            f"found {len(fields)} columns; write the five columns {','.join(COLUMNS)} "
            "(no comma in the text), or a header with 'path'."
        )
    dataset, relative, length, _, text = fields
    if not length.strip().isdecimal():
        raise InputError(f"input_length is {length!r}; write the clip's number of picture frames.")
    picture = root / dataset / relative
    sound = picture.with_suffix(".wav")
    paired = sound != picture and _is_file(sound) and _is_file(picture)
    return Entry((sound, picture) if paired else picture, text, frames=int(length))
