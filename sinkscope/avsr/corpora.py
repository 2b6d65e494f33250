"""Corpora: every clip of a folder, or of a manifest, with its text where it is known.

A folder is searched with all that is in it. A file of sound beside a picture of the same stem is
that picture's sound. The text is the first line of a ``.txt`` of the same stem, as in LRS2 and LRS3
(``Text:  THAT'S WHAT IT IS``), in lower case; what stands below that line is left
alone. Without it, a JSON file of ours is read (`sinkscope.avsr.sidecar`).

```python
corpus = read_corpus("lrs3/test")
corpus = read_corpus("labels/lrs3_test.csv", root="/data", landmarks="landmarks")
for failure in corpus.failures:
    print(failure.reason)
```
"""

from collections.abc import Iterator
from dataclasses import replace
from os import PathLike
from pathlib import Path

from sinkscope.avsr.manifest import Corpus, Entry, Failure, name_below, read_corpus_manifest
from sinkscope.avsr.sidecar import read_sidecar
from sinkscope.errors import InputError

__all__ = ["LANDMARKS", "MANIFESTS", "PICTURES", "SOUNDS", "read_corpus", "with_landmarks"]

PICTURES = frozenset(
    {
        *(".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
        *(".mts", ".ogv", ".ts", ".webm", ".wmv"),
    }
)
"""Endings of files that are taken for pictures, with or without sound."""

SOUNDS = frozenset(
    {".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav", ".wma"}
)
"""Endings of files that are taken for sound."""

MANIFESTS = frozenset({".csv", ".lst", ".txt"})
"""Endings of manifests."""

LANDMARKS = (".npy", ".npz", ".json", ".pkl")
"""Endings of files of landmarks, in the order in which they are looked for."""


def read_corpus(
    source: str | PathLike[str],
    *,
    root: str | PathLike[str] | None = None,
    landmarks: str | PathLike[str] | None = None,
) -> Corpus:
    """The clips of a corpus, none of them opened, in the manifest's order or by path.

    Args:
        source: a folder, a manifest or one media file.
        root: the folder that a manifest's relative paths start from.
        landmarks: a folder with a file of landmarks for each clip, at the path that the clip has
            below its root.

    Returns:
        The clips, and what is listed but cannot be one, each with a sentence.

    Raises:
        InputError: ``source`` does not exist, or holds no clip at all.
    """
    path = Path(source)
    if path.is_dir():
        corpus = _folder(path)
    elif path.suffix.lower() in MANIFESTS:
        corpus = read_corpus_manifest(path, root=root)
    elif path.is_file():
        corpus = Corpus([Entry(path, name=path.stem)], [])
    else:
        raise InputError(f"{path} does not exist; give a folder, a manifest or a media file.")
    return corpus if landmarks is None else with_landmarks(corpus, landmarks)


def with_landmarks(corpus: Corpus, folder: str | PathLike[str]) -> Corpus:
    """The corpus with a file of landmarks for each clip; a clip that has none is a failure.

    Raises:
        InputError: the folder does not exist, or has landmarks for none of the clips.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of landmarks; check the path.")
    entries, failures = [], list(corpus.failures)
    for entry in corpus.entries:
        files = [folder / f"{entry.name}{suffix}" for suffix in LANDMARKS]
        found = next((file for file in files if file.is_file()), None)
        if found is not None:
            entries.append(replace(entry, landmarks=found))
            continue
        wanted = f"{folder / entry.name}.npy (or {', '.join(LANDMARKS[1:])})"
        failures.append(Failure(entry.source, f"{entry.path} has no landmarks: no file {wanted}."))
    if not entries:
        raise InputError(f"{failures[-1].reason} None of the clips has; check the folder.")
    return Corpus(entries, failures)


def _folder(root: Path) -> Corpus:
    """Every clip in a folder."""
    entries, failures = [], []
    for source in _sources(root):
        entry = Entry(source)
        entry = replace(entry, name=name_below(root, entry.path))
        try:
            entries.append(replace(entry, text=_text(entry.path)))
        except InputError as error:
            failures.append(Failure(source, str(error)))
    if not entries:
        why = failures[0].reason if failures else "no file in it ends as sound or video does."
        raise InputError(f"{root} holds no clip: {why}")
    return Corpus(entries, failures)


def _sources(root: Path) -> Iterator[Path | tuple[Path, Path]]:
    """Media files by path; sound beside a picture goes with it."""
    files: dict[Path, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in PICTURES | SOUNDS and not path.name.startswith("."):
            files.setdefault(path.with_suffix(""), []).append(path)
    for same in files.values():
        pictures = [path for path in same if path.suffix.lower() in PICTURES]
        sounds = [path for path in same if path.suffix.lower() in SOUNDS]
        if len(pictures) == 1 and sounds:
            yield sounds[0], pictures[0]
        else:
            yield from pictures or sounds


def _text(media: Path) -> str | None:
    """The first line of the clip's ``.txt``, else the text of its JSON; None without both."""
    path = media.with_suffix(".txt")
    if not path.is_file():
        return read_sidecar(media)[0]
    try:
        first = path.read_text(encoding="utf-8-sig").partition("\n")[0]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: a transcript is UTF-8 text, and this file is not.") from error
    said = first.strip().removeprefix("Text:")
    return " ".join(said.lower().split()) or None
