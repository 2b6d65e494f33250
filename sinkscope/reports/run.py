"""A run folder: record, tables, figures and report, written whole or not at all.

``RUN/run.json``, ``RUN/record/``, ``RUN/tables/*.csv``, ``RUN/figures/*.png``, ``RUN/report.html``.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sinkscope import __version__
from sinkscope.analysis.thresholds import Thresholds
from sinkscope.errors import InputError
from sinkscope.record import Record
from sinkscope.reports.figures import run_figures
from sinkscope.reports.page import render
from sinkscope.reports.sections import Section, refuse_clashes
from sinkscope.reports.tables import run_tables
from sinkscope.reports.words import sentences

__all__ = ["Thresholds", "refuse_existing", "write_run"]


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
        record: what was recorded.
        thresholds: what counts as a sink and as massive; the defaults if left out.
        run: more for ``run.json`` (a seed, a command line).
        sections: what else the run has to tell, after the figures of its record.
        overwrite: replace an older run that has the name.

    Returns:
        The folder.

    Raises:
        InputError: if something stands there and must not be replaced.
    """
    folder = Path(folder)
    refuse_existing(folder, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    temporary.chmod(0o755)
    try:
        _write(temporary, record, thresholds or Thresholds(), dict(run or {}), sections)
        _swap(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def refuse_existing(folder: str | Path, *, overwrite: bool = False) -> None:
    """Refuse a folder that holds something: an older run unless it may be replaced, or no run.

    Raises:
        InputError: saying what stands there.
    """
    folder = Path(folder)
    if folder.is_dir():
        if not any(folder.iterdir()):
            return
        if not (folder / "run.json").is_file():
            raise InputError(f"{folder} holds files that are no run; choose another folder.")
        if not overwrite:
            raise InputError(f"{folder} holds an older run; choose another name or overwrite it.")
    elif folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} is a file; name a folder for the run.")


def _write(
    folder: Path,
    record: Record,
    thresholds: Thresholds,
    run: dict[str, Any],
    sections: Sequence[Section],
) -> None:
    tables = run_tables(record, thresholds)
    figures = run_figures(record, tables, thresholds)
    said = _said(record, thresholds) | run
    said["findings"] = sentences(tables)
    own = {"run": said, "tables": tables, "figures": [one.name for one in figures]}
    refuse_clashes(sections, own)
    said |= {section.name: list(section.sentences) for section in sections}
    record.save(folder / "record")
    (folder / "tables").mkdir()
    more = {name: table for section in sections for name, table in section.tables.items()}
    for name, table in (tables | more).items():
        table.to_csv(folder / "tables" / f"{name}.csv", index=False)
    (folder / "figures").mkdir()
    for figure in (*figures, *(one for section in sections for one in section.figures)):
        (folder / "figures" / f"{figure.name}.png").write_bytes(figure.png)
    page = render(record, tables, figures, thresholds=thresholds, run=said, sections=sections)
    (folder / "report.html").write_text(page, encoding="utf-8")
    content = json.dumps(_plain(said), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "run.json").write_text(content + "\n", encoding="utf-8")


def _said(record: Record, thresholds: Thresholds) -> dict[str, Any]:
    """What ``run.json`` says of the record."""
    samples = [
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
    return {
        **record.provenance,
        "sinkscope": __version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "thresholds": thresholds.of_sinks,
        "layers": record.layers,
        "samples": samples,
    }


def _plain(value: Any) -> Any:
    """The value as JSON knows it; NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _swap(temporary: Path, folder: Path) -> None:
    """Give the new run its name; an older one goes only once the new one is whole."""
    if not folder.exists():
        temporary.replace(folder)
        return
    older = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    folder.replace(older / "run")
    try:
        temporary.replace(folder)
    except OSError:
        (older / "run").replace(folder)
        raise
    finally:
        shutil.rmtree(older, ignore_errors=True)
