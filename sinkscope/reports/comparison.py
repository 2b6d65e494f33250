"""A comparison on one page: words first, then figures, then tables; written whole or not at all.

``OUT/run.json``, ``OUT/tables/*.csv``, ``OUT/figures/*.png``, ``OUT/report.html``, and the records
in ``OUT/before/`` and ``OUT/after/``.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sinkscope import __version__
from sinkscope.analysis.compare import compare
from sinkscope.analysis.comparison import MEANING, Comparison
from sinkscope.analysis.tables import as_ranges
from sinkscope.analysis.words_comparison import comparison_sentences
from sinkscope.record import SCHEMA_VERSION, Record
from sinkscope.reports.comparison_answers import comparison_answers
from sinkscope.reports.comparison_figures import comparison_figures
from sinkscope.reports.folder import whole_folder, write_parts
from sinkscope.reports.page import fill, pictures_of, samples_of, shown
from sinkscope.reports.run import samples_said

__all__ = ["write_comparison"]

FACTS = {
    "subject": "model",
    "family": "family",
    "model_hash": "weights",
    "modality": "streams",
    "audio_rate": "audio rate (frames a token)",
    "video_rate": "video rate (frames a token)",
    "dtype": "number type",
    "device": "device",
    "attention_implementation": "attention implementation",
    "prepend_bos": "with BOS",
}
"""What the page says of both models."""


def write_comparison(
    folder: str | Path,
    before: Record,
    after: Record,
    comparison: Comparison | None = None,
    *,
    run: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Compare two records and write everything to a folder.

    All is written to a sibling that is renamed at the end, so that a folder that has the name is
    whole.

    Args:
        folder: where; its parents are made.
        before: of the first model.
        after: of the second, on the same clips.
        comparison: what ``compare`` returned; with the default thresholds if left out.
        run: more for ``run.json`` (a command line).
        overwrite: replace an older run that has the name.

    Returns:
        The folder.

    Raises:
        InputError: if something stands there and must not be replaced, or the two cannot be
            compared.
    """
    found = compare(before, after) if comparison is None else comparison
    with whole_folder(folder, overwrite=overwrite) as temporary:
        figures = comparison_figures(before, after, found)
        said = _said(before, after, found) | dict(run or {})
        before.save(temporary / "before")
        after.save(temporary / "after")
        page = fill(
            "comparison.html.j2",
            before=found.before,
            after=found.after,
            answers=comparison_answers(found),
            sentences=comparison_sentences(found),
            figures=pictures_of(figures),
            tables=[shown(name, table, MEANING[name]) for name, table in found.tables.items()],
            facts=_facts(before, after),
            samples=samples_of(before),
            thresholds=found.thresholds,
            made=said["made"],
            version=said["sinkscope"],
        )
        write_parts(temporary, tables=found.tables, figures=figures, page=page, run=said)
    return Path(folder)


def _said(before: Record, after: Record, found: Comparison) -> dict[str, Any]:
    """What ``run.json`` says."""
    attrs = found.effects.attrs
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "comparison",
        "before": dict(before.provenance),
        "after": dict(after.provenance),
        "sinkscope": __version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "thresholds": found.thresholds.of_sinks,
        "draws": attrs["draws"],
        "seed": attrs["seed"],
        "layers": before.layers,
        "samples": samples_said(before),
        "findings": comparison_sentences(found),
    }


def _facts(before: Record, after: Record) -> list[tuple[str, str, str]]:
    """Name and both values; what neither says is left out."""
    pairs = [
        (words, before.provenance.get(name), after.provenance.get(name))
        for name, words in FACTS.items()
    ]
    heads = [record["segment_sum"].sizes["head"] for record in (before, after)]
    layers = [as_ranges(record.layers) for record in (before, after)]
    recorded = [f"{a} (0-based), {b} heads" for a, b in zip(layers, heads, strict=True)]
    return [
        *((name, _word(a), _word(b)) for name, a, b in pairs if a is not None or b is not None),
        ("recorded layers", recorded[0], recorded[1]),
    ]


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)
