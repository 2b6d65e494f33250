"""``sinkscope demo``: all that the package can, on what it ships, offline."""

from pathlib import Path
from typing import Annotated

import typer

from sinkscope.cli import options

__all__ = ["demo"]


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")] = Path(
        "sinkscope-demo"
    ),
    device: options.Device = None,
) -> None:
    """Scan the bundled models on the bundled clips, explain what is found, and write reports."""
    from rich.console import Console

    from sinkscope.avsr.media import read_clip
    from sinkscope.cli.scan import control_inputs, explained, record_inputs
    from sinkscope.cli.show import show_run
    from sinkscope.reports.run import Thresholds, write_run
    from sinkscope.subjects.avsr import AvsrSubject
    from sinkscope.subjects.bundled import bundled, bundled_clips
    from sinkscope.subjects.subject import load

    console = Console(highlight=False)
    clips = [read_clip(path) for path in bundled_clips()]
    for model in bundled():
        subject = load(model.name, device=device)
        console.rule(model.name)
        if isinstance(subject, AvsrSubject):
            for clip in clips:
                console.print(f"said   {clip.text}", markup=False, style="dim")
                console.print(f"heard  {subject.transcribe(clip)}", markup=False)
        record, thresholds = record_inputs(subject, clips), Thresholds()
        sections = [
            explained(subject, clips, record, thresholds, None),
            control_inputs(subject, clips, **thresholds.of_sinks),
        ]
        folder = write_run(output / model.name, record, sections=sections, overwrite=True)
        show_run(record, thresholds, folder, sections)
