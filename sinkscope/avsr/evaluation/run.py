"""One pass over a corpus: read a window, put it into every condition, decode it, write it down."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.decoding import Heard, batches_of, decode_batch
from sinkscope.avsr.evaluation.cases import Case
from sinkscope.avsr.evaluation.conditions import Condition, Mixer, open_mixer
from sinkscope.avsr.evaluation.log import Log, Row, open_log
from sinkscope.avsr.evaluation.settings import (
    Running,
    Settings,
    Utterance,
    cases_of,
    facts_of,
    path_of,
)
from sinkscope.avsr.evaluation.table import Evaluation, summarise
from sinkscope.avsr.loading import load_clips
from sinkscope.avsr.manifest import Corpus, Entry, Failure
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.scoring import utterance_errors
from sinkscope.errors import InputError

__all__ = ["evaluate"]

WINDOW = 64
"""Utterances that are in memory at once; batches are made of one window's."""


def evaluate(
    model: LlamaAvsr,
    corpus: Corpus | Sequence[Utterance],
    folder: Path | None = None,
    *,
    settings: Settings | None = None,
    about: Mapping[str, Any] | None = None,
    running: Running | None = None,
) -> Evaluation:
    """Decodes a corpus and scores it.

    Args:
        model: what transcribes.
        corpus: what `read_corpus` found, whose clips are read when their turn comes; or clips.
        folder: where the rows go while they are made, and the files at the end; a folder with a
            stopped run of the same settings is gone on with. None keeps everything in memory.
        settings: what is evaluated, and how.
        about: what is written beside the results; its ``model_hash`` and ``dtype`` count as
            settings.
        running: batch size and progress.

    Raises:
        InputError: a setting is impossible or is not that of the stopped run; the model lacks a
            modality; no utterance could be scored.
    """
    settings, running, about = settings or Settings(), running or Running(), about or {}
    utterances, unusable = _split(corpus)
    cases = cases_of(model.config, settings)
    facts = facts_of(model.config, utterances, settings, about)
    log = open_log(folder, facts)
    rows = [*unusable, *_Run(model, utterances, settings, running, cases, log).all()]
    scored = [row for row in rows if row.error is None]
    failures = [row for row in rows if row.error is not None]
    if not scored:
        count = len(utterances) + len(unusable)
        raise InputError(
            f"None of the {count} clips could be evaluated; the first: {failures[0].error}"
        )
    table = summarise(rows, cases, seed=settings.seed)
    found = Evaluation(facts, about, table, scored, failures)
    if folder is not None:
        found.write(folder)
    return found


def _split(corpus: Corpus | Sequence[Utterance]) -> tuple[Sequence[Utterance], list[Row]]:
    """What can be read, and what a manifest lists in vain."""
    if not isinstance(corpus, Corpus):
        return corpus, []
    rows = []
    for failure in corpus.failures:
        source = failure.source[1] if isinstance(failure.source, tuple) else failure.source
        rows.append(Row(None, "" if source is None else str(source), error=failure.reason))
    return corpus.entries, rows


@dataclass
class _Run:
    model: LlamaAvsr
    corpus: Sequence[Utterance]
    settings: Settings
    running: Running
    cases: Sequence[Case]
    log: Log
    mixer: Mixer | None = field(default=None, init=False)

    def all(self) -> list[Row]:
        """Do what is missing; the rows by utterance, then in the table's order."""
        numbers = range(len(self.corpus))
        self.running.progress(len(numbers) * len(self.cases) - len(self._missing(numbers)))
        if any(case.condition.snr is not None for _, case in self._missing(numbers)):
            self.mixer = open_mixer(self.settings.noise, self.corpus, seed=self.settings.seed)
        spans = [numbers[start : start + WINDOW] for start in numbers[::WINDOW]]
        spans = [span for span in spans if self._missing(span)]
        clips = self._read([number for span in spans for number in span])
        try:
            for span in spans:
                self._window({number: next(clips) for number in span})
        finally:
            clips.close()
        order = [Row(None, "").place[1:], *(case.place(0)[1:] for case in self.cases)]
        return sorted(self.log.rows(), key=lambda row: (row.utterance, order.index(row.place[1:])))

    def _missing(self, numbers: range) -> list[tuple[int, Case]]:
        return [
            (number, case)
            for number in numbers
            for case in self.cases
            if case.place(number) not in self.log
        ]

    def _read(self, numbers: Sequence[int]) -> Generator[Clip | str, None, None]:
        """Clips with references, one after the other, or why there is none."""
        entries = (one for number in numbers if isinstance(one := self.corpus[number], Entry))
        loaded = iter(load_clips(entries, workers=self.running.workers))
        for number in numbers:
            utterance = self.corpus[number]
            clip = utterance if isinstance(utterance, Clip) else next(loaded)
            if isinstance(clip, Failure):
                yield clip.reason
            elif (clip.text or "").split():
                yield clip
            else:
                where = path_of(utterance) or "A clip"
                yield f"{where} has no text to score against; give its text in the manifest."

    def _window(self, found: Mapping[int, Clip | str]) -> None:
        """Decode what is missing of some utterances."""
        clips = {number: clip for number, clip in found.items() if isinstance(clip, Clip)}
        for number, reason in found.items():
            if isinstance(reason, str):
                missing = len(self._missing(range(number, number + 1)))
                self.log.add([Row(number, path_of(self.corpus[number]), error=reason)])
                self.running.progress(missing)
        for case in self.cases:
            self._case(clips, case)

    def _case(self, clips: Mapping[int, Clip], case: Case) -> None:
        """Decode a window in one case, a batch at a time."""
        if all(case.place(number) in self.log for number in clips):
            return
        noisy: dict[int, Clip] = {}
        for number, clip in clips.items():
            try:
                noisy[number] = self._mix(clip, number, case.condition)
            except InputError as error:
                heard = {number: Heard(error=str(error))}
                self._keep(heard, clips, case)
        for batch in self._batches(noisy):
            if all(case.place(number) in self.log for number in batch):
                continue
            heard = decode_batch(
                self.model,
                [noisy[number] for number in batch],
                modality=case.modality,
                decoding=case.decoding(self.settings.decoding),
                numbers=batch,
            )
            self._keep(dict(zip(batch, heard, strict=True)), clips, case)

    def _mix(self, clip: Clip, number: int, condition: Condition) -> Clip:
        if condition.snr is None or self.mixer is None:
            return clip
        return self.mixer(clip, number, condition.snr)

    def _batches(self, clips: Mapping[int, Clip]) -> Iterator[list[int]]:
        """Numbers of utterances; the same batches whatever is done already."""
        numbers = list(clips)
        for batch in batches_of(list(clips.values()), frames=self.running.batch_frames):
            yield [numbers[place] for place in batch]

    def _keep(self, heard: Mapping[int, Heard], clips: Mapping[int, Clip], case: Case) -> None:
        """Write down what is new of a batch."""
        rows = [
            _row(number, clips[number], path_of(self.corpus[number]), case, one)
            for number, one in heard.items()
            if case.place(number) not in self.log
        ]
        self.log.add(rows)
        self.running.progress(len(rows))


def _row(number: int, clip: Clip, path: str, case: Case, heard: Heard) -> Row:
    about: dict[str, Any] = {"seconds": round(clip.duration, 3), "error": heard.error}
    if case.pair is not None:
        about["audio_rate"], about["video_rate"] = case.pair
        about["tokens"] = heard.tokens
    if heard.error is not None:
        return Row(number, path, case.modality, case.condition.name, **about)
    said = {"reference": clip.text or "", "hypothesis": heard.text}
    errors, about["note"] = utterance_errors(**said), heard.note
    return Row(number, path, case.modality, case.condition.name, errors=errors, **said, **about)
