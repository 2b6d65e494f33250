"""The report: tables, figures, and one page that says what came out."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sinkscope.experiments.decorrelation import figures
from sinkscope.experiments.decorrelation.claims import Evidence, judge
from sinkscope.experiments.decorrelation.page import page_of
from sinkscope.experiments.decorrelation.plan import Arm, Sizes, cells_of
from sinkscope.experiments.decorrelation.results import numbers_table, wer_table
from sinkscope.experiments.decorrelation.summaries import (
    control_table,
    meaning_table,
    place_table,
    swap_table,
)
from sinkscope.experiments.made import made_by

__all__ = ["arms_of", "write_report"]

Pairs = dict[str, tuple[Sequence[Arm], Sequence[Arm]]]


def arms_of(seeds: Sequence[int], weight: float | int) -> Pairs:
    """The arms without and with the loss, by scheme."""
    return {
        scheme: (
            [Arm(seed, scheme) for seed in seeds],
            [Arm(seed, scheme, weight) for seed in seeds],
        )
        for scheme in ("full", "lora")
    }


def write_report(
    out: Path, folder: Path, *, seeds: Sequence[int], weight: float | int, sizes: Sizes
) -> None:
    """Write everything to a folder: ``README.md``, CSV tables, PNG figures.

    Args:
        out: folder of all results.
        folder: of the report; files of the same names are written over.
        seeds: of the arms.
        weight: of the loss.
        sizes: how much was done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pairs = arms_of(seeds, weight)
    base, tuned = pairs["full"]
    normed = [replace(arm, control="layer norm") for arm in base]
    tables = {
        "wer": wer_table(out, pairs),
        "numbers": numbers_table(out, pairs),
        "shared_stage": wer_table(out, {"full": pairs["full"]}, stage="shared"),
        "controls": control_table(out, seeds, weight),
        "places": place_table(out, base, tuned),
        "sweep": pd.read_csv(out / "sweep.csv"),
        "swapped_delimiters": swap_table(out, base),
        "low_meaning": meaning_table(out, base),
    }
    claims = judge(Evidence(out, base, tuned, normed))
    tables["claims"] = pd.DataFrame([vars(claim) for claim in claims])
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.5g")
    drawn = {
        "wer": figures.error_lines(tables["wer"]),
        "numbers": figures.number_dots(tables["numbers"]),
        "curves": figures.learning_curves(out, base, tuned),
        "controls": figures.control_bars(tables["controls"]),
        "places": figures.place_bars(tables["places"]),
    }
    for name, figure in drawn.items():
        figure.savefig(folder / f"{name}.png", dpi=130)
    page = page_of(tables, claims, seeds=seeds, weight=weight)
    (folder / "README.md").write_text(page, encoding="utf-8")
    told = _told(out, [*base, *tuned, *pairs["lora"][0], *pairs["lora"][1]], sizes)
    told |= {"seeds": list(seeds), "weight": weight}
    (folder / "run.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _told(out: Path, arms: Sequence[Arm], sizes: Sizes) -> dict[str, Any]:
    """How the report was made."""
    names = {arm.name for arm in arms} | {cell.name for cell in cells_of(arms)}
    curves = [out / name / "curve.json" for name in sorted(names)]
    seconds = [json.loads(path.read_text())[-1]["seconds"] for path in curves if path.exists()]
    return {
        **made_by("python -m sinkscope.experiments.decorrelation OUT --report FOLDER"),
        "sizes": asdict(sizes),
        "runs": len(seconds),
        "seconds_of_training": sum(seconds),
    }
