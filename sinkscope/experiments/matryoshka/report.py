"""The report: tables, figures, and one page that says what came out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from sinkscope.experiments.made import made_by
from sinkscope.experiments.matryoshka import figures
from sinkscope.experiments.matryoshka.experts import TABLES, read_experts
from sinkscope.experiments.matryoshka.page import page_of
from sinkscope.experiments.matryoshka.plan import SYSTEMS, Arm, Sizes
from sinkscope.experiments.matryoshka.results import (
    Arms,
    help_table,
    longer_table,
    number_table,
    system_table,
    wer_table,
)

__all__ = ["write_report"]

SIDES = ("untrained", "without", "with")


def write_report(
    out: Path, folder: Path, *, arms: Sequence[Arm], table: pd.DataFrame, sizes: Sizes
) -> None:
    """Write everything to a folder: ``README.md``, CSV tables, PNG figures.

    Args:
        out: folder of all results.
        folder: of the report; files of the same names are written over.
        arms: all of them.
        table: of the sweep.
        sizes: how much was done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    grouped = _by_system(arms)
    seeds = sorted({arm.seed for arm in arms})
    tables = {
        "wer": wer_table(out, grouped),
        "systems": system_table(out, grouped),
        "help": help_table(out, grouped),
        "numbers": number_table(out, grouped),
        "longer": longer_table(out, arms),
        "sweep": table,
        **{f"experts_{name}": read_experts(out, seeds, SIDES, name) for name in TABLES},
    }
    for name, one in tables.items():
        one.to_csv(folder / f"{name}.csv", index=False, float_format="%.5g")
    drawn = {
        "wer": figures.error_dots(tables["wer"]),
        "help": figures.help_dots(tables["wer"]),
        "numbers": figures.number_dots(tables["numbers"]),
        "experts": figures.usage_dots(tables["experts_usage"]),
    }
    for name, figure in drawn.items():
        figure.savefig(folder / f"{name}.png", dpi=130)
    told = _told(out, arms, sizes)
    page = page_of(tables, told)
    (folder / "README.md").write_text(page, encoding="utf-8")
    (folder / "run.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _by_system(arms: Sequence[Arm]) -> Arms:
    found: dict[str, tuple[list[Arm], list[Arm]]] = {}
    for system in SYSTEMS:
        own = [arm for arm in arms if arm.system == system and not arm.longer]
        if own:
            found[system] = (
                [arm for arm in own if arm.weight == 0],
                [arm for arm in own if arm.weight > 0],
            )
    return found


def _told(out: Path, arms: Sequence[Arm], sizes: Sizes) -> dict[str, Any]:
    """How the report was made."""
    curves = [
        json.loads((out / arm.name / f"model-{number}" / "curve.json").read_text())
        for arm in arms
        for number in range(len(arm.parts))
    ]
    rates: Mapping[str, float] = {arm.system: arm.learning_rate for arm in arms}
    return {
        **made_by("python -m sinkscope.experiments.matryoshka OUT --report FOLDER"),
        "sizes": asdict(sizes),
        "seeds": sorted({arm.seed for arm in arms}),
        "weight": max(arm.weight for arm in arms),
        "learning_rates": rates,
        "models": len(curves),
        "seconds_of_training": round(sum(curve[-1]["seconds"] for curve in curves)),
    }
