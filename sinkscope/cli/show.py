"""What a command prints of a run: the findings in words, the sinks, and where the report is."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sinkscope.record import Record
    from sinkscope.reports.run import Thresholds
    from sinkscope.reports.sections import Section

__all__ = ["show_run"]

ROWS = 12


def show_run(
    record: "Record", thresholds: "Thresholds", folder: Path, *, sections: "Sequence[Section]" = ()
) -> None:
    """Print the findings of a run that was written to ``folder``, and those of its sections."""
    from rich.console import Console
    from rich.table import Table

    from sinkscope.analysis.sinks import sink_summary
    from sinkscope.reports.words import findings

    console = Console(highlight=False)
    for sentence in findings(record, thresholds):
        console.print(f"• {sentence}", markup=False)
    sinks = sink_summary(record, **thresholds.of_sinks)
    if len(sinks):
        columns = [name for name in SHOWN if name in sinks]
        table = Table(*columns, box=None, header_style="bold")
        for row in sinks[columns].head(ROWS).itertuples(index=False):
            table.add_row(*[_word(value) for value in row])
        console.print(table)
        if len(sinks) > ROWS:
            console.print(f"and {len(sinks) - ROWS} more in tables/sink_summary.csv", style="dim")
    for section in sections:
        console.print(section.title, style="bold", markup=False)
        for sentence in section.sentences:
            console.print(f"• {sentence}", markup=False)
    console.print(f"report: {folder / 'report.html'}", style="bold", markup=False, soft_wrap=True)


SHOWN = (
    "sample",
    "token",
    "label",
    "segment",
    "start",
    "end",
    "first_layer",
    "last_layer",
    "alpha",
)


def _word(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.3g}"
    return str(value)
