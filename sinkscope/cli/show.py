"""What a command prints of a run: the findings in words, the sinks, and where the report is."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sinkscope.interventions.measure import Effects
    from sinkscope.record import Record
    from sinkscope.reports.run import Thresholds
    from sinkscope.reports.sections import Section

__all__ = ["show_effects", "show_run", "show_story"]

ROWS = 12


def show_run(
    record: "Record", thresholds: "Thresholds", folder: Path, sections: "Sequence[Section]" = ()
) -> None:
    """Print the findings of a run that was written to ``folder``."""
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
    for sentence in _of_experts(folder) if "router" in record else ():
        console.print(f"• {sentence}", markup=False)
    for section in sections:
        show_story(section)
    console.print(f"report: {folder / 'report.html'}", style="bold", markup=False, soft_wrap=True)


def _of_experts(folder: Path) -> list[str]:
    """What the run says of a model's experts: the sentences of its report."""
    return json.loads((folder / "run.json").read_text(encoding="utf-8")).get("experts", [])


def show_story(section: "Section") -> None:
    """Print the sentences of a further part of a report."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(section.title, style="bold", markup=False)
    for sentence in section.sentences:
        console.print(f"• {sentence}", markup=False)


def show_effects(measured: "Effects | None", folder: Path) -> None:
    """Print what every condition did, and where the report is."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if measured is not None:
        after = measured.summary.pivot(index="condition", columns="metric", values="after")
        metrics = [name for name in METRICS if name in after]
        table = Table("condition", *metrics, box=None, header_style="bold")
        for condition in dict.fromkeys(measured.summary["condition"]):
            numbers = [_word(float(after.loc[condition, name])) for name in metrics]
            table.add_row(condition, *numbers)
        console.print(table)
    console.print(f"report: {folder / 'report.html'}", style="bold", markup=False, soft_wrap=True)


METRICS = ("loss", "wer", "kl", "sinks", "largest_sink_rate", "largest_ratio")

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
