"""``sinkscope demo``: all that the package can, on what it ships, offline."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sinkscope.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from sinkscope.record import Record

__all__ = ["demo"]

BASE, TUNED, EXPERTS = "tiny-avsr", "tiny-avsr-decorrelated", "tiny-mome"


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")] = Path(
        "sinkscope-demo"
    ),
    matryoshka: Annotated[
        bool,
        typer.Option(
            "--matryoshka", help="Instead: one bundled model at all of its rates, and its experts."
        ),
    ] = False,
    device: options.Device = None,
) -> None:
    """Scan the bundled model on the bundled clips, explain what is found, and write a report.

    Then the same clips through its twin, which was trained with the decorrelation loss: what that
    changed. With --matryoshka, the clips at every rate of a mixture of Matryoshka experts.
    """
    from rich.console import Console

    from sinkscope.avsr.media import read_clip
    from sinkscope.subjects.bundled import bundled_clips
    from sinkscope.subjects.subject import load

    console = Console(highlight=False)
    clips = [read_clip(path) for path in bundled_clips()]
    if matryoshka:
        _many_rates(console, load(EXPERTS, device=device), clips, output / EXPERTS)
        return
    subjects = [load(name, device=device) for name in (BASE, TUNED)]
    console.rule(BASE)
    heard = [_transcribe(subject, clips) for subject in subjects]
    for clip, before, after in zip(clips, *heard, strict=True):
        console.print(f"said   {clip.text}", markup=False, style="dim")
        console.print(f"heard  {before}", markup=False)
        if after != before:
            console.print(f"       {after}  (with the decorrelation loss)", markup=False)
    record = _scan(subjects[0], clips, output / BASE)
    console.rule(f"{BASE} and {TUNED}")
    _compare(console, record, subjects[1], clips, output / "before-and-after", heard)


def _transcribe(subject: Any, clips: Sequence[Any]) -> list[str]:
    return [subject.transcribe(clip) for clip in clips]


def _scan(subject: Any, clips: Sequence[Any], folder: Path) -> "Record":
    from sinkscope.cli.scan import control_inputs, explained, record_inputs
    from sinkscope.cli.show import show_run
    from sinkscope.reports.run import Thresholds, write_run

    record, thresholds = record_inputs(subject, clips), Thresholds()
    sections = [
        explained(subject, clips, record, thresholds, None),
        control_inputs(subject, clips, **thresholds.of_sinks),
    ]
    show_run(
        record, thresholds, write_run(folder, record, sections=sections, overwrite=True), sections
    )
    return record


def _compare(
    console: "Console",
    before: "Record",
    subject: Any,
    clips: Sequence[Any],
    folder: Path,
    heard: Sequence[Sequence[str]],
) -> None:
    from sinkscope.analysis.compare import compare
    from sinkscope.avsr.transcripts import transcript_errors
    from sinkscope.cli.compare import show_comparison
    from sinkscope.cli.scan import record_inputs
    from sinkscope.reports.comparison import write_comparison

    after = record_inputs(subject, clips)
    errors = transcript_errors([clip.text for clip in clips], *heard)
    found = compare(before, after, wer=errors)
    write_comparison(folder, before, after, found, overwrite=True)
    show_comparison(found, folder)


def _many_rates(console: "Console", subject: Any, clips: Sequence[Any], folder: Path) -> None:
    """The clips' words, tokens and errors at every pair of rates; then their sinks and experts."""
    from itertools import product

    from rich.table import Table

    from sinkscope.avsr.scoring import word_errors
    from sinkscope.cli.rates import write_rates_of

    console.rule(subject.name)
    said = [clip.text or "" for clip in clips]
    table = Table("rates", "tokens a clip", "word errors", "heard in the first clip", box=None)
    config = subject.model.config
    for audio, video in product(config.audio_rates, config.video_rates):
        rates = {"audio_rate": audio, "video_rate": video}
        spans = subject.model.prepare(clips, **rates).spans
        tokens = sum(s.stop - s.start for row in spans for s in row if s.times is not None)
        heard = subject.transcribe(clips, **rates)
        errors = f"{word_errors(said, heard).rate:.0%}"
        table.add_row(f"{audio}, {video}", f"{tokens / len(clips):.0f}", errors, heard[0])
    console.print(f"said   {said[0]}", markup=False, style="dim")
    console.print(table)
    write_rates_of(subject, clips, options.EVERY, folder, overwrite=True)
