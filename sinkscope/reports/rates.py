"""One set of clips at several rates on one page; written whole or not at all.

``OUT/run.json``, ``OUT/tables/*.csv``, ``OUT/figures/*.png``, ``OUT/report.html``, and a record for
every pair of rates in ``OUT/records/4-2/`` (audio rate, video rate).

Example:
    >>> import sinkscope as ss
    >>> records = ss.record_rates("tiny-mome", clips, [(4, 2), (16, 5)],
    ...     keep=["resid_post"])                                     # doctest: +SKIP
    >>> write_rates("runs/rates", records)                           # doctest: +SKIP
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from sinkscope import __version__, plots
from sinkscope.analysis.experts import expert_usage
from sinkscope.analysis.rate_similarity import rate_similarity
from sinkscope.analysis.rates import Pair, check_rates, rate_words
from sinkscope.analysis.sink_agreement import sink_agreement
from sinkscope.analysis.sinks_by_rate import sink_share, sinks_by_rate
from sinkscope.analysis.tables import as_ranges
from sinkscope.analysis.thresholds import Thresholds
from sinkscope.analysis.usage_across_rates import usage_across_rates
from sinkscope.analysis.usage_distances import usage_distances
from sinkscope.analysis.words import describe
from sinkscope.record import SCHEMA_VERSION, Record
from sinkscope.reports.figures import RunFigure, drawn
from sinkscope.reports.folder import whole_folder, write_parts
from sinkscope.reports.page import fill, pictures_of, samples_of, shown
from sinkscope.reports.run import samples_said

__all__ = ["MEANING", "rate_tables", "write_rates"]

MEANING = {
    "sink_share": "How many of a segment's tokens are sinks, at every pair of rates.",
    "sink_agreement": "Share of one rate's sinks that have a sink at the same place at another "
    "rate, against random tokens of the same segment.",
    "sinks_by_rate": "Every token that is a sink in some layer, at every pair of rates.",
    "rate_similarity": "How the tokens of a clip match between the pairs with most and fewest "
    "tokens: slope, deviation in seconds, against the tokens of another clip.",
    "usage_across_rates": "Mean distance of expert usage between rates and between layers, and "
    "what shuffled labels give.",
    "usage_distances": "The same for every two rates and every two layers.",
}
"""What each table holds, in the order of the page."""

CAPTIONS = {
    "sinks_by_rate": (
        "Sinks on one time axis",
        "Each group of rows is a pair of rates. A sink that keeps its second at every rate belongs "
        "to what is said or seen there; one that keeps its place among the tokens does not.",
    ),
    "rate_similarity": (
        "The same clip at two rates",
        "A bright diagonal says that tokens of equal seconds are alike at both rates. The slope of "
        "the fit is the number of fine tokens for a coarse one.",
    ),
    "usage_distances": (
        "Experts across rates and layers",
        "Far left: the same experts work. Grey dots are what is left when labels are exchanged at "
        "random. Experts of one number in two layers are different experts.",
    ),
    "expert_usage": (
        "Experts at every rate",
        "Each row is a layer, each column a routed expert; panels that look alike share experts.",
    ),
}
"""Title and caption of each figure, in the order of the page."""


def write_rates(
    folder: str | Path,
    records: Mapping[Pair, Record],
    *,
    thresholds: Thresholds | None = None,
    run: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Analyse the records of several rates and write everything to a folder.

    Args:
        folder: where; its parents are made.
        records: of the same clips by (audio rate, video rate): see ``record_rates``. Tokens are
            matched between rates where they keep ``resid_post``, experts compared where the model
            has them.
        thresholds: what counts as a sink; the defaults if left out.
        run: more for ``run.json`` (a command line).
        overwrite: replace an older run that has the name.

    Returns:
        The folder.

    Raises:
        InputError: if something stands there and must not be replaced, or the records cannot be
            compared.
    """
    check_rates(records, where="write_rates")
    rules = thresholds or Thresholds()
    with whole_folder(folder, overwrite=overwrite) as temporary:
        tables = rate_tables(records, rules)
        figures = _figures(records, tables)
        sentences = [describe(tables[name]) for name in MEANING if name in tables]
        said = _said(records, rules, sentences) | dict(run or {})
        first = next(iter(records.values()))
        page = fill(
            "rates.html.j2",
            subject=first.provenance.get("subject") or "a model that was not named",
            pairs=[rate_words(pair) for pair in records],
            sentences=sentences,
            figures=pictures_of(figures),
            tables=[shown(name, table, MEANING[name]) for name, table in tables.items()],
            facts=_facts(records),
            samples=samples_of(first),
            made=said["made"],
            version=said["sinkscope"],
        )
        for (audio, video), record in records.items():
            record.save(temporary / "records" / f"{audio}-{video}")
        write_parts(temporary, tables=tables, figures=figures, page=page, run=said)
    return Path(folder)


def rate_tables(records: Mapping[Pair, Record], rules: Thresholds) -> dict[str, pd.DataFrame]:
    """The tables that the records allow, in the order of ``MEANING``."""
    sinks = sinks_by_rate(records, **rules.of_sinks)
    tables = {
        "sink_share": sink_share(records, sinks),
        "sink_agreement": sink_agreement(records, sinks),
        "sinks_by_rate": sinks,
    }
    if all("resid_post" in record for record in records.values()):
        tables["rate_similarity"] = rate_similarity(*_ends(records))
    if all("router" in record for record in records.values()):
        tables["usage_across_rates"] = usage_across_rates(records)
        tables["usage_distances"] = usage_distances(records)
    return tables


def _ends(records: Mapping[Pair, Record]) -> tuple[Record, Record]:
    """The records with most and with fewest tokens."""
    ordered = sorted(records.values(), key=lambda record: sum(map(len, record.layouts)))
    return ordered[-1], ordered[0]


def _figures(
    records: Mapping[Pair, Record], tables: Mapping[str, pd.DataFrame]
) -> Sequence[RunFigure]:
    draw: dict[str, Any] = {
        "sinks_by_rate": partial(plots.sinks_by_rate, records, tables["sinks_by_rate"])
    }
    if "rate_similarity" in tables:
        table = tables["rate_similarity"]
        best: Any = table.loc[table["deviation"].idxmin()]
        place = {"layer": int(best["layer"]), "segment": str(best["segment"])}
        draw["rate_similarity"] = partial(plots.rate_similarity, *_ends(records), **place)
    if "usage_distances" in tables:
        draw["usage_distances"] = partial(plots.usage_distances, tables["usage_distances"])
        usages = {pair: expert_usage(record) for pair, record in records.items()}
        draw["expert_usage"] = partial(plots.expert_usage, usages)
    return [drawn(name, *CAPTIONS[name], draw[name]) for name in CAPTIONS if name in draw]


def _said(
    records: Mapping[Pair, Record], rules: Thresholds, sentences: Sequence[str]
) -> dict[str, Any]:
    """What ``run.json`` says."""
    first = next(iter(records.values()))
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "rates",
        **{key: value for key, value in first.provenance.items() if not key.endswith("_rate")},
        "pairs": [list(pair) for pair in records],
        "tokens": [[len(layout) for layout in record.layouts] for record in records.values()],
        "sinkscope": __version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "thresholds": rules.of_sinks,
        "layers": first.layers,
        "samples": samples_said(first),
        "findings": list(sentences),
    }


def _facts(records: Mapping[Pair, Record]) -> list[tuple[str, str]]:
    """What was run, as pairs of name and value; what is unknown is left out."""
    first = next(iter(records.values()))
    said, mome = first.provenance, first.provenance.get("mome") or {}
    tokens = [
        f"{rate_words(pair)} {sum(map(len, record.layouts))}" for pair, record in records.items()
    ]
    experts = (
        f"{mome['routed']} routed, {mome['top_k']} a token, {mome['shared']} shared, beside the "
        f"{mome['placement']}"
        if {"routed", "top_k", "shared", "placement"} <= set(mome)
        else None
    )
    pairs = [
        ("model", said.get("subject")),
        ("weights", said.get("model_hash")),
        ("recorded layers", f"{as_ranges(first.layers)} (0-based)"),
        ("tokens of all samples at (audio rate, video rate)", ", ".join(tokens)),
        ("experts", experts),
        ("streams", said.get("modality")),
    ]
    return [(name, str(value)) for name, value in pairs if value]
