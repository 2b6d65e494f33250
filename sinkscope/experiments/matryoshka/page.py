"""The report's page: Markdown from the tables. Depends on pandas."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sinkscope.experiments.decorrelation.results import NUMBERS
from sinkscope.experiments.markdown import grid, line, records_of
from sinkscope.experiments.matryoshka.figures import rates_in_words
from sinkscope.experiments.matryoshka.plan import SETTINGS, SYSTEMS, TASKS

__all__ = ["page_of"]

Row = Mapping[str, Any]


def page_of(tables: Mapping[str, pd.DataFrame], told: Mapping[str, Any]) -> str:
    """The page, with every table in its place.

    Args:
        tables: by name.
        told: how the report was made.
    """
    template = (Path(__file__).parent / "report.md").read_text(encoding="utf-8")
    wer = records_of(tables["wer"])
    return template.format(
        seeds=len(told["seeds"]),
        weight=f"{told['weight']:g}",
        steps=told["sizes"]["steps"],
        hearing=told["sizes"]["hearing"],
        utterances=wer[0]["utterances"] if wer else 0,
        looked_at=told["sizes"]["looked_at"],
        wer=_errors(wer),
        systems=_systems(records_of(tables["systems"])),
        systems_said=_counted(records_of(tables["systems"]), "difference"),
        help_said=_counted(wer, "difference"),
        help=_help(records_of(tables["help"])),
        more_said=_counted(records_of(tables["help"]), "more"),
        numbers=_numbers(tables["numbers"]),
        long_steps=told["sizes"]["longer"],
        longer=_longer(records_of(tables["longer"])),
        sweep=_sweep(records_of(tables["sweep"])),
        usage=_usage(tables["experts_usage"]),
        balance=_balance(tables["experts_balance"]),
        sink_experts=_sink_experts(tables["experts_sink_experts"]),
        agreement=_agreement(tables["experts_agreement"]),
        share=_share(tables["experts_sink_share"]),
        similarity=_similarity(tables["experts_similarity"]),
    )


def _points(row: Row, name: str) -> str:
    point, low, high = (100 * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    sign = "" if name in ("without", "with") else "+"
    return f"{point:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def _setting(row: Row) -> tuple[str, str]:
    rates = rates_in_words(row["task"], row["audio_rate"], row["video_rate"])
    return TASKS[row["task"]], rates


def _errors(wer: Sequence[Row]) -> str:
    rows = [
        line(
            SYSTEMS[row["system"]],
            *_setting(row),
            *(_points(row, name) for name in ("without", "with", "difference")),
        )
        for row in wer
    ]
    head = ("system", "task", "rates", "without the loss, %", "with it, %", "difference, points")
    return grid(head, rows)


def _systems(rows: Sequence[Row]) -> str:
    """A row a setting, a column a system."""
    names = list(dict.fromkeys(row["system"] for row in rows))
    settings: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        settings.setdefault(_setting(row), []).append(_points(row, "difference"))
    head = ("task", "rates", *(SYSTEMS[name] for name in names))
    return grid(head, [line(*setting, *cells) for setting, cells in settings.items()])


def _counted(rows: Sequence[Row], name: str) -> str:
    """How many intervals lie below and above 0."""
    below = sum(row[f"{name}_high"] < 0 for row in rows)
    above = sum(row[f"{name}_low"] > 0 for row in rows)
    return f"of {len(rows)} intervals {below} lie below 0 and {above} above it"


def _help(rows: Sequence[Row]) -> str:
    ends = {
        task: [rates_in_words(task, *one.rates) for one in SETTINGS if one.task == task]
        for task in TASKS
    }
    body = [
        line(
            SYSTEMS[row["system"]],
            f"{TASKS[row['task']]}, {ends[row['task']][0]} and {ends[row['task']][-1]}",
            *(_points(row, name) for name in ("lowest", "highest", "more")),
        )
        for row in rows
    ]
    head = ("system", "task, rates", "at the lowest", "at the highest", "highest minus lowest")
    return grid(head, body)


def _numbers(numbers: pd.DataFrame) -> str:
    means: pd.DataFrame = numbers.pivot_table(
        ["without", "with"], ["system", "number"], sort=False
    ).reset_index()
    rows = [
        line(
            SYSTEMS[row["system"]],
            NUMBERS[row["number"]],
            f"{row['without']:.3g}",
            f"{row['with']:.3g}",
        )
        for row in records_of(means)
    ]
    return grid(("system", "mean over settings", "without", "with"), rows)


def _longer(rows: Sequence[Row]) -> str:
    """A row a setting, two columns a system."""
    if not rows:
        return "Not run."
    names = list(dict.fromkeys(row["system"] for row in rows))
    settings: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        cells = (f"{100 * row['longer']:.1f}", _points(row, "difference"))
        settings.setdefault(_setting(row), []).extend(cells)
    head = [cell for name in names for cell in (f"{SYSTEMS[name]}, %", "change")]
    return grid(
        ("task", "rates", *head),
        [line(*setting, *cells) for setting, cells in settings.items()],
    )


def _sweep(rows: Sequence[Row]) -> str:
    body = [
        line(
            SYSTEMS[row["system"]],
            f"{row['learning_rate']:g}",
            f"{row['weight']:g}",
            f"{100 * row['mean']:.1f} %",
        )
        for row in rows
    ]
    return grid(("system", "learning rate", "weight of the loss", "error, mean of eight"), body)


def _usage(table: pd.DataFrame) -> str:
    rows = []
    for row in records_of(table.loc[table["segment"].isin(["all", "audio", "video"])]):
        rates, layers = (_interval(row, name) for name in ("rates", "layers"))
        shuffled = f"{row['rates_control']:.2f} (95 % below {row['rates_control_high']:.2f})"
        rows.append(
            line(row["side"], row["seed"], row["segment"], rates, shuffled, layers, row["verdict"])
        )
    head = ("", "seed", "tokens", "between rates", "shuffled", "between layers", "verdict")
    return grid(head, rows)


def _interval(row: Row, name: str) -> str:
    return f"{row[name]:.2f} ({row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f})"


def _balance(table: pd.DataFrame) -> str:
    whole = table.loc[table["segment"] == "all"]
    rows = []
    for side, own in whole.groupby("side", sort=False):
        spans = [
            f"{own[name].min():.2f} to {own[name].max():.2f}"
            for name in ("usage_entropy", "token_entropy", "balance", "max_over_mean")
        ]
        rows.append(line(side, *spans, int(own["unused"].sum())))
    head = ("", "entropy of usage", "entropy of a token's router", "balance", "busiest over mean")
    return grid((*head, "experts never used"), rows)


def _sink_experts(table: pd.DataFrame) -> str:
    if table.empty:
        return "No layer has an attention sink."
    rows = [
        line(
            row["side"],
            row["seed"],
            f"{row['audio_rate']}, {row['video_rate']}",
            row["layer"],
            row["segment"],
            row["sinks"],
            f"{row['share']:.0%}",
            _chance(row, "control", "p"),
            _chance(row, "anywhere", "anywhere_p"),
        )
        for row in records_of(table)
    ]
    head = ("", "seed", "rates", "layer", "sinks on", "how many", "get one expert")
    return grid((*head, "others of the segment", "any others"), rows)


def _chance(row: Row, name: str, p: str) -> str:
    value = row[name]
    return "" if value != value else f"{value:.0%} (p = {row[p]:.3f})"


def _agreement(table: pd.DataFrame) -> str:
    if table.empty:
        return "There is no sink at any rate."
    told = (table["sinks"] > 0) & (table["same_rate"] != True) & (table["segment"] != "bos")  # noqa: E712
    own = table.loc[told]
    if own.empty:
        return "No sink but BOS has another rate to be compared with."
    rows = []
    for (side, segment), part in own.groupby(["side", "segment"], sort=False):
        weights = part["sinks"] / part["sinks"].sum()
        agree, control = ((part[name] * weights).sum() for name in ("agree", "control"))
        rows.append(line(side, segment, int(part["sinks"].sum()), f"{agree:.0%}", f"{control:.0%}"))
    head = ("", "sinks on", "sinks, counted once for each other pair")
    return grid((*head, "have one there at another pair of rates", "random tokens"), rows)


def _share(table: pd.DataFrame) -> str:
    whole = table.loc[table["segment"] == "all"]
    keys = ["side", "audio_rate", "video_rate"]
    sums: pd.DataFrame = whole.groupby(keys, sort=False)[["tokens", "sinks"]].sum().reset_index()
    clips = whole.groupby(keys, sort=False)["sinks_a_clip"].mean().tolist()
    rows = [
        line(
            row["side"],
            f"{row['audio_rate']}, {row['video_rate']}",
            f"{row['sinks'] / row['tokens']:.2%}",
            f"{each:.2f}",
        )
        for row, each in zip(records_of(sums), clips, strict=True)
    ]
    return grid(("", "rates", "share of tokens that are sinks", "sinks a clip"), rows)


def _similarity(table: pd.DataFrame) -> str:
    means: pd.DataFrame = table.pivot_table(
        ["expected", *SIMILAR], ["side", "segment", "layer"], sort=False
    ).reset_index()
    rows = [
        line(
            *(row[name] for name in ("side", "segment", "layer")),
            *(f"{row[name]:.2f}" for name in ("expected", *SIMILAR)),
        )
        for row in records_of(means)
    ]
    head = ("", "stream", "layer", "ratio of the rates", "slope", "partners", "inside")
    return grid((*head, "inside, another clip", "seconds off"), rows)


SIMILAR = ("slope", "partners", "inside", "control_inside", "deviation")
"""Numbers of `rate_similarity` that are shown."""
