"""What stands behind INPUT: media files, a manifest, or a text in quotes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkscope.errors import InputError

if TYPE_CHECKING:
    from sinkscope.avsr.clip import Clip
    from sinkscope.avsr.manifest import Entry

__all__ = ["list_clips", "read_inputs", "select"]

MANIFESTS = {".csv", ".txt", ".lst"}
SOUND = {".wav", ".flac", ".mp3", ".ogg", ".m4a"}


def read_inputs(words: Sequence[str]) -> "list[Clip] | list[str]":
    """Clips or texts, with a progress bar where there are several.

    Two files with one stem, of which one is sound (``clip.wav clip.mp4``), make one clip.

    Raises:
        InputError: if a file is missing, or texts and files are mixed.
    """
    are_files = [_is_file(word) for word in words]
    if not any(are_files):
        return list(words)
    if not all(are_files):
        raise InputError(
            f"INPUT mixes files and text ({words[are_files.index(False)]!r}); give one kind."
        )
    return list(_read(_entries([Path(word) for word in words])))


def list_clips(words: Sequence[str]) -> "list[Entry]":
    """The clips that the words name, none of them read yet.

    Raises:
        InputError: if a word is a text, or a file is missing.
    """
    texts = [word for word in words if not _is_file(word)]
    if texts:
        raise InputError(f"INPUT must be media files here, not the text {texts[0]!r}.")
    return _entries([Path(word) for word in words])


def select(
    subject: Any, modality: str | None, audio_rate: int | None, video_rate: int | None
) -> Any:
    """The subject with the chosen streams and rates; unchanged where none is chosen.

    Raises:
        InputError: if the subject takes no clips.
    """
    chosen = {"modality": modality, "audio_rate": audio_rate, "video_rate": video_rate}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if not chosen:
        return subject
    if not hasattr(subject, "with_options"):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in chosen)
        raise InputError(
            f"{names}: {subject.name} is a text model and takes no clips; leave it out."
        )
    return subject.with_options(**chosen)


def _is_file(word: str) -> bool:
    try:
        if Path(word).exists():
            return True
    except OSError:  # a text longer than a file's name may be
        return False
    if " " not in word and (Path(word).suffix[1:].isalnum() or "/" in word):
        raise InputError(f"{word}: there is no such file; check the path (a text needs a space).")
    return False


def _entries(paths: list[Path]) -> "list[Entry]":
    from sinkscope.avsr.manifest import Entry, read_manifest

    entries: list[Entry] = []
    for source in _pairs(paths):
        if isinstance(source, Path) and source.suffix.lower() in MANIFESTS:
            entries += read_manifest(source)
        else:
            entries.append(Entry(source))
    return entries


def _read(entries: "list[Entry]") -> "Iterator[Clip]":
    from tqdm import tqdm

    from sinkscope.avsr.media import read_clip

    bar = tqdm(entries, desc="reading clips", unit="clip", disable=len(entries) < 2, leave=False)
    for entry in bar:
        yield read_clip(entry.source, text=entry.text)


def _pairs(paths: list[Path]) -> list[Path | tuple[Path, Path]]:
    """Sound and picture files that share a stem, next to each other, become one source."""
    sources: list[Path | tuple[Path, Path]] = []
    for path in paths:
        before = sources[-1] if sources else None
        if isinstance(before, Path) and before.with_suffix("") == path.with_suffix(""):
            sound, picture = sorted((before, path), key=lambda p: p.suffix.lower() not in SOUND)
            if sound.suffix.lower() in SOUND and picture.suffix.lower() not in SOUND:
                sources[-1] = (sound, picture)
                continue
        sources.append(path)
    return sources
