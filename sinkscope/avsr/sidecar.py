"""What is said in a synthetic clip: the JSON file that stands beside its media file."""

import json
from pathlib import Path
from typing import Any

from sinkscope.avsr.clip import Phoneme
from sinkscope.errors import InputError

__all__ = ["read_sidecar"]


def read_sidecar(*media: Path) -> tuple[str | None, tuple[Phoneme, ...]]:
    """Read ``<stem>.json`` beside the first of the media files that has one of ours.

    Ours is an object with the keys ``"text"`` and ``"phonemes"`` (rows of label, start and end in
    seconds). Other programs write JSON files of that name too; those are left alone.

    Args:
        media: paths of media files.

    Returns:
        The text and the phoneme timeline; None and nothing where no such file is.

    Raises:
        InputError: a file of ours has rows that are no phonemes.
    """
    for path in media:
        beside = path.with_suffix(".json")
        content = _load(beside) if beside.is_file() else None
        if isinstance(content, dict) and {"text", "phonemes"} <= content.keys():
            return str(content["text"]), _phonemes(content["phonemes"], beside)
    return None, ()


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # not JSON, or not text: not one of ours
        return None


def _phonemes(rows: Any, path: Path) -> tuple[Phoneme, ...]:
    try:
        return tuple(Phoneme(str(label), float(start), float(end)) for label, start, end in rows)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: 'phonemes' must be rows of [label, start, end] in seconds ({error}); "
            "mend the file or remove it."
        ) from error
