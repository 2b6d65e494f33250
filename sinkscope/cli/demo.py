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

BASE, TUNED = "tiny-avsr", "tiny-avsr-decorrelated"


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")] = Path(
        "sinkscope-demo"
    ),
    device: options.Device = None,
) -> None:
    """Scan the bundled model on the bundled clips, explain what is found, and write a report.

    Then the same clips through its twin, which was trained with the decorrelation loss: what that
    changed.
    """
    from rich.console import Console

    from sinkscope.avsr.media import read_clip
    from sinkscope.subjects.bundled import bundled_clips
    from sinkscope.subjects.subject import load

    console = Console(highlight=False)
    clips = [read_clip(path) for path in bundled_clips()]
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
