"""Manifests: a text file that lists clips. Opens none of them.

Three forms are read:

* ``.txt`` or ``.lst``: one media file a line;
* ``.csv`` with a header: a ``path`` column, and perhaps ``text``;
* ``.csv`` of Llama-AVSR, without header: ``dataset_name,rel_path,input_length,token_ids,text``,
  with paths below the folder that holds ``labels/`` (the manifest's own folder otherwise).

Relative paths are taken from the manifest's folder.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from sinkscope.errors import InputError

__all__ = ["Entry", "read_manifest"]

AUTHORS_COLUMNS = 5


@dataclass(frozen=True)
class Entry:
    """One clip of a manifest: a media file or a (sound, picture) pair, and its text if known."""

    source: Path | tuple[Path, Path]
    text: str | None = None


def read_manifest(path: str | Path) -> list[Entry]:
    """The clips that a manifest lists, in its order; no file is opened but the manifest.

    Raises:
        InputError: if the manifest is missing, empty or of no known form, or lists a missing
            file; the message names the row.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such manifest; check the path.")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: a manifest is UTF-8 text, and this file is not.") from error
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise InputError(f"{path}: the manifest is empty; list one clip a row.")
    if path.suffix.lower() != ".csv":
        return [Entry(_found(path, number, path.parent / line.strip())) for number, line in rows]
    header = next(csv.reader([rows[0][1]]))
    if "path" in header:
        return [_with_header(path, header, number, line) for number, line in rows[1:]]
    return [_of_authors(path, number, line) for number, line in rows]


def _with_header(manifest: Path, header: list[str], number: int, line: str) -> Entry:
    row = dict(zip(header, next(csv.reader([line])), strict=False))
    if not row.get("path"):
        raise InputError(f"{manifest}, row {number}: the path is empty; name a media file.")
    return Entry(_found(manifest, number, manifest.parent / row["path"]), row.get("text") or None)


def _of_authors(manifest: Path, number: int, line: str) -> Entry:
    fields = next(csv.reader([line]))
    if len(fields) != AUTHORS_COLUMNS:
        raise InputError(
            f"{manifest}, row {number}: found {len(fields)} columns; write a header with 'path', "
            f"or the five columns dataset_name,rel_path,input_length,token_ids,text."
        )
    dataset, relative, _, _, text = fields
    picture = _found(manifest, number, _root(manifest) / dataset / relative)
    sound = picture.with_suffix(".wav")
    return Entry((sound, picture) if sound.is_file() else picture, text)


def _root(manifest: Path) -> Path:
    folder = manifest.parent
    return folder.parent if folder.name == "labels" else folder


def _found(manifest: Path, number: int, source: Path) -> Path:
    if not source.is_file():
        raise InputError(f"{manifest}, row {number}: there is no file {source}; mend the row.")
    return source
