"""The rows of an evaluation while it runs: one line of JSON each, written as soon as it is known.

A run that was stopped finds its rows again; one whose settings are others is refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sinkscope.avsr.passes import StreamRates
from sinkscope.avsr.scoring import UtteranceErrors
from sinkscope.errors import InputError

__all__ = ["Log", "Row", "open_log"]

Place = tuple[int | None, str | None, str | None, StreamRates]
"""Utterance, modality, condition and rates."""

WITH_RATES = ("audio_rate", "video_rate", "tokens")
"""What only rows of an evaluation at several rates have."""

SETTINGS, ROWS = "settings.json", "rows.jsonl"


@dataclass(frozen=True)
class Row:
    """One utterance in one modality and condition, or a clip that failed.

    Attributes:
        utterance: its place in the corpus, 0-based; None for a row of a manifest that is no clip.
        path: where it came from, ``""`` for a clip without a file.
        modality: what was read of it; None where the clip itself could not be read.
        condition: what it was heard in; None likewise.
        seconds: its length.
        reference: what is said.
        hypothesis: what was understood.
        errors: the difference, in words; None where it failed.
        error: why it failed, one sentence; None where it did not.
        note: what the encoders did not read of it; None where they read it all.
        audio_rate: encoder frames a token, in an evaluation at several rates; None where no sound
            was read.
        video_rate: the same for video.
        tokens: of audio and video that the LLM read, likewise.
    """

    utterance: int | None
    path: str
    modality: str | None = None
    condition: str | None = None
    seconds: float | None = None
    reference: str | None = None
    hypothesis: str | None = None
    errors: UtteranceErrors | None = None
    error: str | None = None
    note: str | None = None
    audio_rate: int | None = None
    video_rate: int | None = None
    tokens: int | None = None

    @property
    def place(self) -> Place:
        """What only one row may be about."""
        pair = (self.audio_rate, self.video_rate)
        return self.utterance, self.modality, self.condition, pair

    def to_dict(self) -> dict[str, Any]:
        """A flat dictionary but for ``errors``; without rates where there are none."""
        values = asdict(self)
        for name in WITH_RATES:
            if values[name] is None:
                del values[name]
        return values


class Log:
    """Rows so far, and the file that grows with them (none where ``path`` is None)."""

    def __init__(self, path: Path | None, rows: Sequence[Row] = ()) -> None:
        self._path = path
        self._rows: dict[Place, Row] = {}
        self._keep(rows)

    def __contains__(self, place: Place) -> bool:
        """Whether this need not be done again; what failed may be tried again."""
        return place in self._rows and self._rows[place].error is None

    def add(self, rows: Sequence[Row]) -> None:
        """Keep rows, and write them at once."""
        self._keep(rows)
        if self._path is None:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(
                "".join(json.dumps(row.to_dict(), ensure_ascii=False) + "\n" for row in rows)
            )

    def rows(self) -> list[Row]:
        """One row for each thing that was done, the latest."""
        return list(self._rows.values())

    def _keep(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._rows[row.place] = row
            if row.modality is not None:  # a clip that could not be read before was mended
                self._rows.pop(Row(row.utterance, "").place, None)


def open_log(folder: Path | None, settings: Mapping[str, Any]) -> Log:
    """The log of a folder, which is made if it is not there; in memory only without a folder.

    A last line that was cut off by a stop is dropped.

    Raises:
        InputError: the folder holds an evaluation with other settings, or something else, or a
            damaged line.
    """
    if folder is None:
        return Log(None)
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_others(folder, json.loads(json.dumps(settings)))
    path = folder / ROWS
    if not path.exists():
        return Log(path)
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    lines = whole.splitlines()
    return Log(path, [_row(path, number, line) for number, line in enumerate(lines, 1)])


def _refuse_others(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings where there are none, and refuse what differs from those that are."""
    path = folder / SETTINGS
    if not path.exists():
        if any(other.suffix != ".part" for other in folder.iterdir()):
            raise InputError(f"{folder} is not empty and holds no evaluation; use a new folder.")
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); use a new folder.") from error
    changed = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
    if changed:
        name = changed[0]
        more = f" ({', '.join(changed[1:])} changed, too)" if changed[1:] else ""
        raise InputError(
            f"{folder} holds an evaluation with {name} = {before.get(name)}, and now it is "
            f"{settings.get(name)}{more}; use a new folder, or the settings of before."
        )


def _row(path: Path, number: int, line: bytes) -> Row:
    try:
        values = json.loads(line)
        errors = values.pop("errors")
        return Row(**values, errors=errors and UtteranceErrors(**errors))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}, line {number}: not a row of an evaluation ({error}); delete the line, and "
            "its utterance is done again."
        ) from error
