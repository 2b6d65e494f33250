"""What stands behind A and B of ``compare``: two checkpoints on one INPUT, or two finished runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkscope.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from sinkscope.analysis.thresholds import Thresholds
    from sinkscope.record import Record

__all__ = ["Pair", "Wanted", "finished_runs", "opened_pair", "recorded_pair"]


@dataclass(frozen=True, eq=False)
class Pair:
    """Two records that may be compared.

    Attributes:
        before: of A.
        after: of B.
        thresholds: what to judge both by.
        wer: the word errors of both, where there are transcripts and texts.
    """

    before: "Record"
    after: "Record"
    thresholds: "Thresholds"
    wer: "pd.DataFrame | None" = None


@dataclass(frozen=True)
class Wanted:
    """How checkpoints are to be recorded; None is the default of each.

    Attributes:
        layers: 0-based layers.
        bos: with or without BOS.
        streams: ``modality``, ``audio_rate`` and ``video_rate``.
        load: ``device`` and ``dtype``.
    """

    layers: list[int] | None
    bos: bool | None
    streams: Mapping[str, Any]
    load: Mapping[str, str | None]

    @property
    def given(self) -> list[str]:
        """The options that were given, by their name on the command line."""
        options = {"layers": self.layers, "bos": self.bos, **self.streams, **self.load}
        return [f"--{name.replace('_', '-')}" for name, it in options.items() if it is not None]


def finished_runs(a: str, b: str, inputs: Sequence[str], wanted: Wanted) -> bool:
    """Whether A and B are finished runs (true) or checkpoints (false).

    Raises:
        InputError: if they are of two kinds, or INPUT or options do not go with them.
    """
    for word in (a, b):
        if (Path(word) / "checkpoints").is_dir() and (Path(word) / "run.json").is_file():
            raise InputError(f"compare: {word} is a training run; give {word}/model.")
    are_runs = [(Path(word) / "run.json").is_file() for word in (a, b)]
    if are_runs[0] != are_runs[1]:
        run, other = (a, b) if are_runs[0] else (b, a)
        raise InputError(
            f"compare: {run} is a finished run and {other} is none; give two checkpoints, or two "
            "run folders of scan."
        )
    if not are_runs[0] and not inputs:
        raise InputError(
            f"compare: {a} and {b} are checkpoints (there is no run.json), so INPUT is needed: "
            "media files, a manifest, or a text in quotes."
        )
    if are_runs[0] and inputs:
        raise InputError(
            f"compare: {a} and {b} are finished runs that hold their records; leave INPUT "
            f"({inputs[0]!r}) out."
        )
    if are_runs[0] and wanted.given:
        raise InputError(
            f"compare: {wanted.given[0]} cannot change finished runs; leave it out, or give two "
            "checkpoints and INPUT."
        )
    return are_runs[0]


def opened_pair(a: str, b: str, chosen: Mapping[str, Any]) -> Pair:
    """The records of two finished runs, and the thresholds that they were judged by.

    Raises:
        InputError: if a folder is no run of a record, or the two were judged by other thresholds.
        CheckpointError: if a record is damaged or of another version.
    """
    from sinkscope.analysis.thresholds import Thresholds
    from sinkscope.record import Record

    said = [_thresholds(Path(word)) for word in (a, b)]
    for name in Thresholds.__dataclass_fields__:
        values = [one.get(name) for one in said]
        if name not in chosen and values[0] != values[1]:
            stated = ["does not state" if one is None else f"states {one} as" for one in values]
            raise InputError(
                f"compare: {a} {stated[0]} its {name} and {b} {stated[1]} it; "
                f"judge both by one, with --{name.replace('_', '-')}."
            )
    known = {name: value for name, value in said[0].items() if name in asdict(Thresholds())}
    records = [Record.open(Path(word) / "record") for word in (a, b)]
    before, after = _named(records, (a, b))
    return Pair(before, after, Thresholds(**{**known, **chosen}))


def recorded_pair(
    a: str,
    b: str,
    inputs: Sequence[str],
    wanted: Wanted,
    *,
    thresholds: "Thresholds",
    transcribe: bool = True,
) -> Pair:
    """Both checkpoints recorded on one INPUT, one after the other, and what they understood.

    Raises:
        InputError: if a checkpoint or an input cannot be read.
    """
    from sinkscope.cli.inputs import read_inputs

    data = read_inputs(inputs)
    seen = [_recorded(word, data, wanted, transcribe=transcribe) for word in (a, b)]
    before, after = _named([record for record, _ in seen], (a, b))
    return Pair(before, after, thresholds, _word_errors(data, [heard for _, heard in seen]))


def _recorded(
    word: str, data: Sequence[Any], wanted: Wanted, *, transcribe: bool
) -> "tuple[Record, list[str] | None]":
    """One checkpoint's record and transcripts; the model is let go before the next one is read."""
    from sinkscope.cli.inputs import select
    from sinkscope.cli.scan import record_inputs
    from sinkscope.subjects.subject import load

    streams = [wanted.streams[name] for name in ("modality", "audio_rate", "video_rate")]
    subject = select(load(word, **wanted.load), *streams)
    record = record_inputs(subject, data, layers=wanted.layers, prepend_bos=wanted.bos)
    return record, _heard(subject, data) if transcribe else None


def _thresholds(folder: Path) -> dict[str, Any]:
    """The thresholds that a run.json states."""
    try:
        said = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"compare: {folder / 'run.json'} cannot be read ({error}).") from error
    if not isinstance(said, dict) or not (folder / "record").is_dir():
        raise InputError(
            f"compare: {folder} is no run of scan (it has no record/); give a folder that scan "
            "wrote."
        )
    found = said.get("thresholds")
    return dict(found) if isinstance(found, dict) else {}


def _named(records: "Sequence[Record]", words: Sequence[str]) -> "tuple[Record, Record]":
    """The records under names that tell them apart: the models' own, or what the user wrote."""
    names = [record.provenance.get("subject") for record in records]
    unclear = not all(names) or (names[0] == names[1] and words[0] != words[1])
    one, other = (
        replace(record, provenance={**record.provenance, "subject": word}) if unclear else record
        for record, word in zip(records, words, strict=True)
    )
    return one, other


def _heard(subject: Any, data: Sequence[Any]) -> list[str] | None:
    """Transcripts of the clips whose text is known; None for texts and models without speech."""
    from tqdm import tqdm

    if not hasattr(subject, "transcribe") or not any(_text(one) for one in data):
        return None
    bar = tqdm(data, desc="transcribing", unit="clip", leave=False, disable=None)
    return [subject.transcribe(one) if _text(one) else "" for one in bar]


def _word_errors(data: Sequence[Any], heard: Sequence[list[str] | None]) -> "pd.DataFrame | None":
    from sinkscope.avsr.transcripts import transcript_errors

    before, after = heard
    if before is None or after is None:
        return None
    return transcript_errors([_text(one) for one in data], before, after)


def _text(one: Any) -> str:
    """What is said in a clip; "" where unknown, and for a text, which is not spoken."""
    return getattr(one, "text", None) or ""
