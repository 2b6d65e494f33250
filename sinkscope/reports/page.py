"""The report: one HTML page that needs no other file and no network."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from sinkscope.analysis.tables import as_ranges
from sinkscope.analysis.thresholds import Thresholds
from sinkscope.record import Record
from sinkscope.reports.cells import columns_of, rows_of
from sinkscope.reports.figures import RunFigure
from sinkscope.reports.sections import Section
from sinkscope.reports.tables import MEANING
from sinkscope.reports.words import answers, sentences

__all__ = ["MOST_ROWS", "fill", "pictures_of", "render", "samples_of", "shown"]

MOST_ROWS = 200
"""Rows of a table that the page shows; the csv file holds all."""

OPEN = ("sink_summary",)
"""Tables that are not folded."""


def render(
    record: Record,
    tables: Mapping[str, pd.DataFrame],
    figures: Sequence[RunFigure],
    *,
    thresholds: Thresholds,
    run: Mapping[str, Any],
    sections: Sequence[Section] = (),
) -> str:
    """The page of a run. Every text of a model or file is escaped.

    Args:
        record: what was recorded.
        tables: by name, as ``run_tables`` gives them.
        figures: as ``run_figures`` gives them.
        thresholds: those of the tables.
        run: what ``run.json`` says.
        sections: what else there is to tell, in this order.
    """
    return fill(
        "template.html.j2",
        subject=record.provenance.get("subject") or "a model that was not named",
        answers=answers(record, tables, thresholds),
        sentences=sentences(tables),
        facts=_facts(record, tables, thresholds, run),
        samples=samples_of(record),
        figures=pictures_of(figures),
        sections=[(one, pictures_of(one.figures), _tables(one)) for one in sections],
        tables=[shown(name, table, MEANING.get(name, "")) for name, table in tables.items()],
        thresholds=thresholds,
        ratio=tables["massive_activations"].attrs["ratio_threshold"],
        made=run.get("made", ""),
        version=run.get("sinkscope", ""),
    )


def fill(template: str, **content: Any) -> str:
    """A page from one of the templates beside this file. Every text is escaped."""
    environment = Environment(
        loader=PackageLoader("sinkscope.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(most_rows=MOST_ROWS, **content)


def _facts(
    record: Record,
    tables: Mapping[str, pd.DataFrame],
    thresholds: Thresholds,
    run: Mapping[str, Any],
) -> list[tuple[str, str]]:
    """What was run, as pairs of name and value; what is unknown is left out."""
    said = record.provenance
    massive = tables["massive_activations"].attrs
    heads = record["segment_sum"].sizes["head"]
    pairs = [
        ("model", said.get("subject")),
        ("family", said.get("family")),
        ("weights", said.get("model_hash")),
        ("recorded layers", f"{as_ranges(record.layers)} (0-based), {heads} heads"),
        ("BOS", _bos_words(record)),
        ("streams", said.get("modality")),
        ("rates (frames a token)", _rates(said)),
        ("padding side", said.get("padding_side")),
        ("number type and device", _joined(said, "dtype", "device")),
        ("attention implementation", said.get("attention_implementation")),
        (
            "sink",
            f"head-mean key attention > {thresholds.threshold:g}, or above it in at least "
            f"{thresholds.min_heads:.0%} of the heads; at least {thresholds.min_queries} queries",
        ),
        (
            "massive",
            f"|x| ≥ {massive['ratio_threshold']:g} × the layer's median "
            f"({massive['ratio_source']})",
        ),
        ("twin of BOS", f"cosine to BOS > {thresholds.cosine:g}"),
        ("versions", _versions(said, run)),
    ]
    return [(name, str(value)) for name, value in pairs if value]


def _bos_words(record: Record) -> str:
    present = [layout.has_bos for layout in record.layouts]
    if all(present) or not any(present):
        return "present" if all(present) else "absent"
    return f"present in {sum(present)} of {len(present)} samples"


def _rates(said: Mapping[str, Any]) -> str:
    rates = {"audio": said.get("audio_rate"), "video": said.get("video_rate")}
    return ", ".join(f"{name} {rate}" for name, rate in rates.items() if rate)


def _joined(said: Mapping[str, Any], *names: str) -> str:
    return ", ".join(str(said[name]) for name in names if said.get(name))


def _versions(said: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    versions = said.get("versions")
    known = dict(versions) if isinstance(versions, Mapping) else {}
    for name in ("torch", "transformers"):
        if name in said:
            known[name] = said[name]
    known["sinkscope"] = run.get("sinkscope") or known.get("sinkscope")
    return ", ".join(f"{name} {value}" for name, value in known.items() if value)


def samples_of(record: Record) -> list[dict[str, Any]]:
    """What a page says of every sample."""
    return [_sample(record, index) for index in range(len(record))]


def _sample(record: Record, index: int) -> dict[str, Any]:
    layout, clip = record.layouts[index], record.clips[index]
    counts = pd.Series(layout.segments).value_counts(sort=False)
    return {
        "index": index,
        "name": clip.name if clip else f"sample {index}",
        "duration": f"{clip.duration:.2f} s" if clip and clip.duration else "",
        "text": clip.text if clip else "",
        "notes": list(clip.notes) if clip else [],
        "tokens": len(layout),
        "segments": ", ".join(f"{segment} {count}" for segment, count in counts.items()),
    }


def pictures_of(figures: Sequence[RunFigure]) -> list[tuple[RunFigure, str, int]]:
    """Figures with their pictures as text, and their width in pixels."""
    return [(one, base64.b64encode(one.png).decode(), one.width) for one in figures]


def _tables(section: Section) -> list[dict[str, Any]]:
    meaning = section.meaning
    return [shown(name, table, meaning.get(name, "")) for name, table in section.tables.items()]


def shown(name: str, table: pd.DataFrame, meaning: str) -> dict[str, Any]:
    """What a page shows of a table: its name, what it holds, its first rows."""
    return {
        "name": name,
        "meaning": meaning,
        "open": name in OPEN,
        "count": len(table),
        "columns": columns_of(table),
        "rows": rows_of(table.head(MOST_ROWS)),
    }
