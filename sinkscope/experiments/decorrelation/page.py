"""The report's page: Markdown from the tables. Depends on pandas."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sinkscope.experiments.decorrelation.claims import Claim
from sinkscope.experiments.decorrelation.figures import SCHEMES, rates_in_words
from sinkscope.experiments.decorrelation.results import NUMBERS
from sinkscope.experiments.markdown import grid, line, records_of

__all__ = ["page_of"]

Row = Mapping[str, Any]


def page_of(
    tables: Mapping[str, pd.DataFrame],
    claims: Sequence[Claim],
    *,
    seeds: Sequence[int],
    weight: float | int,
) -> str:
    """The page, with every table and claim in its place."""
    template = (Path(__file__).parent / "report.md").read_text(encoding="utf-8")
    rows = {name: records_of(table) for name, table in tables.items()}
    return template.format(
        seeds=len(seeds),
        weight=f"{weight:g}",
        utterances=rows["wer"][0]["utterances"],
        wer=_errors(rows["wer"]),
        numbers=_numbers(tables["numbers"]),
        claims=_claims(claims),
        evidence="\n".join(
            f"- **{claim.name}**: {claim.evidence}" for claim in claims if claim.evidence
        ),
        sweep=_sweep(rows["sweep"]),
        controls=_controls(rows["controls"]),
        swapped=_swapped(rows["swapped_delimiters"]),
        meaning=_meaning(rows["low_meaning"]),
    )


def _share(row: Row, name: str) -> str:
    point, low, high = (100 * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    sign = "+" if name == "difference" else ""
    return f"{point:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def _errors(wer: Sequence[Row]) -> str:
    rows = []
    for row in wer:
        level, task = row["level"], row["task"]
        shown = [_share(row, name) for name in ("without", "with", "difference")]
        rows.append(line(SCHEMES[row["scheme"]], task, level, rates_in_words(level, task), *shown))
    head = ("scheme", "task", "compression", "rate", "without, %", "with, %", "difference, points")
    return grid(head, rows)


def _numbers(numbers: pd.DataFrame) -> str:
    groups = numbers.groupby(["scheme", "number"], sort=False)
    means = pd.DataFrame(groups[["without", "with"]].mean())
    rows = [
        line(
            SCHEMES[row["scheme"]],
            NUMBERS[row["number"]],
            f"{row['without']:.3g}",
            f"{row['with']:.3g}",
        )
        for row in records_of(means.reset_index())
    ]
    return grid(("scheme", "mean over tasks and levels", "without", "with"), rows)


def _claims(claims: Sequence[Claim]) -> str:
    rows = []
    for claim in claims:
        figure = f"`{claim.figure}`" if claim.figure else ""
        verdict = f"**{claim.verdict}**"
        rows.append(line(claim.name, claim.statement, claim.known_from, verdict, figure))
    return grid(("", "claim", "known from", "here", "figure"), rows)


def _sweep(sweep: Sequence[Row]) -> str:
    rows = [line(f"{row['weight']:g}", f"{100 * row['mean']:.1f} %") for row in sweep]
    return grid(("weight", "word error rate, development voices, mean of nine"), rows)


def _controls(controls: Sequence[Row]) -> str:
    values: dict[str, dict[str, list[float]]] = {}
    for row in controls:
        values.setdefault(row["arm"], {}).setdefault(row["number"], []).append(row["value"])
    numbers = list(dict.fromkeys(row["number"] for row in controls))
    rows = [
        line(arm, *(_spread(found.get(number, [])) for number in numbers))
        for arm, found in values.items()
    ]
    names = [NUMBERS.get(number, "word error rate") for number in numbers]
    return grid(("arm", *names), rows)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{sum(values) / len(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def _swapped(swapped: Sequence[Row]) -> str:
    if not swapped:
        return "Not measured."
    names = [name for name in swapped[0] if name not in ("seed", "swapped")]
    rows = [
        line(
            row["seed"],
            "exchanged" if row["swapped"] else "as trained",
            *(f"{row[name]:.2f}" for name in names),
        )
        for row in swapped
    ]
    return grid(("seed", "embeddings", *(f"`{name}`" for name in names)), rows)


def _meaning(meaning: Sequence[Row]) -> str:
    if not meaning:
        return "No audio or video token was a sink."
    rows = [
        line(
            row["seed"],
            row["setting"],
            f"{row['segment']} tokens, {row['measure']}",
            row["n_sinks"],
            f"{row['mean_sinks']:.3g}",
            f"{row['mean_others']:.3g}",
            f"{row['p']:.2g}",
        )
        for row in meaning
    ]
    return grid(("seed", "setting", "measure", "sinks", "mean", "mean of others", "p"), rows)
