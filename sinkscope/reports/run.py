"""A run folder: record, tables, figures and report, written whole or not at all.

``RUN/run.json``, ``RUN/record/``, ``RUN/tables/*.csv``, ``RUN/figures/*.png``, ``RUN/report.html``.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sinkscope import __version__
from sinkscope.analysis.thresholds import Thresholds
from sinkscope.record import Record
from sinkscope.reports.experts import experts_section
from sinkscope.reports.figures import run_figures
from sinkscope.reports.folder import refuse_existing, whole_folder, write_parts
from sinkscope.reports.page import render
from sinkscope.reports.sections import Section, refuse_clashes
from sinkscope.reports.tables import run_tables
from sinkscope.reports.words import sentences

__all__ = ["Thresholds", "refuse_existing", "samples_said", "write_run"]


def write_run(
    folder: str | Path,
    record: Record,
    *,
    thresholds: Thresholds | None = None,
    run: Mapping[str, Any] | None = None,
    sections: Sequence[Section] = (),
    overwrite: bool = False,
) -> Path:
    """Analyse a record and write everything to a run folder.

    All is written to a sibling that is renamed at the end, so that a folder that has the name is
    whole.

    Args:
        folder: where; its parents are made.
        record: what was recorded; that of a model with mixtures of experts has a section on them.
        thresholds: what counts as a sink and as massive; the defaults if left out.
        run: more for ``run.json`` (a seed, a command line).
        sections: what else the run has to tell, after the figures of its record.
        overwrite: replace an older run that has the name.

    Returns:
        The folder.

    Raises:
        InputError: if something stands there and must not be replaced.
    """
    with whole_folder(folder, overwrite=overwrite) as temporary:
        _write(temporary, record, thresholds or Thresholds(), dict(run or {}), sections)
    return Path(folder)


def _write(
    folder: Path,
    record: Record,
    thresholds: Thresholds,
    run: dict[str, Any],
    sections: Sequence[Section],
) -> None:
    tables = run_tables(record, thresholds)
    figures = run_figures(record, tables, thresholds)
    if "router" in record:
        sections = (experts_section(record, tables["sinks"]), *sections)
    said = _said(record, thresholds) | run
    said["findings"] = sentences(tables)
    own = {"run": said, "tables": tables, "figures": [one.name for one in figures]}
    refuse_clashes(sections, own)
    said |= {section.name: list(section.sentences) for section in sections}
    record.save(folder / "record")
    more = {name: table for section in sections for name, table in section.tables.items()}
    drawn = (*figures, *(one for section in sections for one in section.figures))
    page = render(record, tables, figures, thresholds=thresholds, run=said, sections=sections)
    write_parts(folder, tables=tables | more, figures=drawn, page=page, run=said)


def _said(record: Record, thresholds: Thresholds) -> dict[str, Any]:
    """What ``run.json`` says of the record."""
    return {
        **record.provenance,
        "sinkscope": __version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "thresholds": thresholds.of_sinks,
        "layers": record.layers,
        "samples": samples_said(record),
    }


def samples_said(record: Record) -> list[dict[str, Any]]:
    """What ``run.json`` says of every sample."""
    return [
        {
            "name": clip.name if clip else f"sample {index}",
            "path": clip.path if clip else "",
            "duration": clip.duration if clip else None,
            "text": clip.text if clip else "",
            "notes": list(clip.notes) if clip else [],
            "tokens": len(layout),
            "bos_present": layout.has_bos,
        }
        for index, (layout, clip) in enumerate(zip(record.layouts, record.clips, strict=True))
    ]
