"""What an evaluation found: a table over modalities and conditions, rows and failures, and files.

The files hold nothing that changes from run to run: no time, no duration of the run.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkscope.avsr.evaluation.cases import Case
from sinkscope.avsr.evaluation.conditions import Condition
from sinkscope.avsr.evaluation.log import WITH_RATES, Row
from sinkscope.avsr.passes import StreamRates
from sinkscope.avsr.scoring import WordErrors, corpus_errors

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Cell", "Evaluation", "summarise"]

DIGITS = 6


@dataclass(frozen=True)
class Cell:
    """A line of the table.

    Attributes:
        modality: what was read.
        condition: what it was heard in.
        utterances: how many were scored.
        failures: how many were not.
        errors: over the utterances; None where none was scored.
        pair: audio rate and video rate (encoder frames a token; None of a stream that is not
            read), in an evaluation at several rates; None in another one.
        tokens: of audio and video that reached the LLM, the mean over the scored utterances,
            likewise.
    """

    modality: str
    condition: Condition
    utterances: int
    failures: int
    errors: WordErrors | None
    pair: StreamRates | None = None
    tokens: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """A flat dictionary; rates are errors over reference words."""
        line = {
            "modality": self.modality,
            "condition": self.condition.name,
            "snr_db": self.condition.snr,
            **self._rates(),
            "utterances": self.utterances,
            "failures": self.failures,
        }
        errors = self.errors
        counts = ("words", "substitutions", "deletions", "insertions")
        line |= {name: getattr(errors, name) if errors else None for name in counts}
        rates = (errors.rate, *errors.interval) if errors else (None, None, None)
        names = ("wer", "wer_low", "wer_high")
        return line | {
            name: None if rate is None else round(rate, DIGITS)
            for name, rate in zip(names, rates, strict=True)
        }

    def _rates(self) -> dict[str, float | int | None]:
        if self.pair is None:
            return {}
        tokens = None if self.tokens is None else round(self.tokens, DIGITS)
        return {"audio_rate": self.pair[0], "video_rate": self.pair[1], "tokens": tokens}


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        settings: all that its results depend on.
        about: what else a reader must know, of the model and of the machine.
        table: one cell for each modality, pair of rates and condition.
        rows: one for each utterance, modality and condition that was scored.
        failures: the others; one that could not be read at all is listed once.
    """

    settings: Mapping[str, Any]
    about: Mapping[str, Any]
    table: Sequence[Cell]
    rows: Sequence[Row]
    failures: Sequence[Row]

    @property
    def failed_clips(self) -> int:
        """Clips that failed in at least one modality and condition, or are no clips."""
        return len({(row.utterance, row.utterance is None and row.error) for row in self.failures})

    @property
    def _with_rates(self) -> bool:
        return any(cell.pair is not None for cell in self.table)

    @property
    def cut_clips(self) -> int:
        """Clips that are longer than an encoder reads."""
        return len({row.utterance for row in self.rows if row.note is not None})

    def to_dict(self) -> dict[str, Any]:
        """What ``evaluation.json`` holds: all but the rows."""
        listed = ("utterance", "path", "modality", "condition", "audio_rate", "video_rate", "error")
        return {
            "settings": dict(self.settings),
            "about": dict(self.about),
            "table": [cell.to_dict() for cell in self.table],
            "cut_clips": self.cut_clips,
            "failed_clips": self.failed_clips,
            "failures": [_picked(row, listed) for row in self.failures],
        }

    def to_frame(self) -> "pd.DataFrame":
        """The table as a DataFrame, the columns those of ``table.csv``."""
        import pandas as pd

        return pd.DataFrame([cell.to_dict() for cell in self.table])

    def write(self, folder: Path) -> None:
        """Write ``evaluation.json``, ``table.csv`` and ``utterances.csv`` into a folder."""
        _write_csv(folder / "table.csv", [cell.to_dict() for cell in self.table])
        _write_csv(folder / "utterances.csv", [_line(row, self._with_rates) for row in self.rows])
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        _replace(folder / "evaluation.json", text)


def summarise(rows: Sequence[Row], cases: Sequence[Case], *, seed: int) -> list[Cell]:
    """The table of some rows.

    Args:
        rows: by utterance, with those that failed.
        cases: the lines, in the table's order.
        seed: of the bootstrap.
    """
    unusable = sum(row.utterance is None for row in rows)
    broken = {row.utterance for row in rows if row.modality is None} - {None}
    table = []
    for case in cases:
        here = [row for row in rows if row.place[1:] == case.place(0)[1:]]
        scored = [row for row in here if row.error is None]
        failed = broken.union(row.utterance for row in here if row.error is not None)
        failed -= {row.utterance for row in scored}
        errors = [row.errors for row in scored if row.errors is not None]
        tokens = [row.tokens for row in scored if row.tokens is not None]
        table.append(
            Cell(
                modality=case.modality,
                condition=case.condition,
                utterances=len(scored),
                failures=unusable + len(failed),
                errors=corpus_errors(errors, seed=seed) if errors else None,
                pair=case.pair,
                tokens=sum(tokens) / len(tokens) if tokens else None,
            )
        )
    return table


def _picked(row: Row, names: Sequence[str]) -> dict[str, Any]:
    values = row.to_dict()
    return {name: values[name] for name in names if name in values}


def _line(row: Row, with_rates: bool) -> dict[str, Any]:
    """A row of ``utterances.csv``; its texts come last."""
    values = asdict(row)
    del values["error"]
    counts = values.pop("errors")
    rates = {name: values.pop(name) for name in WITH_RATES}
    texts = {name: values.pop(name) for name in ("reference", "hypothesis", "note")}
    return {**values, **(rates if with_rates else {}), **counts, **texts}


def _write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    temporary = path.with_suffix(".part")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    temporary.replace(path)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
