"""Parts of a report that commands add: the tested story of the sinks, what edits changed."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sinkscope.interventions.explain import Explanation
    from sinkscope.interventions.measure import Effects
    from sinkscope.reports.figures import RunFigure
    from sinkscope.reports.sections import Section

__all__ = ["effects_section", "explanation_section"]

SHOWN = ("loss", "wer", "largest_sink_rate", "largest_ratio")
"""Metrics that get a figure, where they were measured."""

MEANING = {
    "births": "Every massive value: the block in which it is born, the part that makes it, its "
    "leading neuron, and what removes it.",
    "neurons": "The neurons that write it, the largest share first, beside their gates at other "
    "tokens.",
    "residual_ledger": "What the parts of every block added to the traced features; what experts "
    "beside an attention or MLP add is contained in attn_out or mlp_out.",
    "sink_mechanics": "Of every sink and head: q·k against other keys split into length and angle, "
    "value drain, peak of the entering state, row entropy, argmax share.",
    "causal_tests": "In how many clips each claim holds under its intervention.",
    "effects": "The mean of every number before and after every intervention, with the 95 % "
    "interval of the change.",
    "effects_by_clip": "The same for every clip, with the transcripts.",
}


def explanation_section(story: "Explanation") -> "Section":
    """The story, its figures and tables."""
    from sinkscope import plots
    from sinkscope.analysis.words import describe
    from sinkscope.interventions.standard import CONTROLS
    from sinkscope.reports.figures import drawn
    from sinkscope.reports.sections import Section

    tables = {"causal_tests": story.tests}
    figures: list[RunFigure] = []
    origin = story.findings.origin
    if origin is not None and len(origin.births):
        caption = "What the parts of every block add to the largest massive value."
        figures.append(drawn("birth", "Where it is born", caption, partial(plots.birth, origin)))
        tables |= {"births": origin.births, "neurons": origin.neurons}
        tables["residual_ledger"] = origin.ledger
        lead = origin.births.loc[origin.births["peak"].abs().idxmax()]
        if not bool(lead.isna()["neuron"]):
            caption = "Neurons by what they write, not by how much they fire: one, or many "
            caption += "together? Beside them their gates, here and at ordinary tokens."
            draw = partial(plots.neurons, origin)
            figures.append(drawn("neurons", "Who writes it", caption, draw))
    if story.mechanics is not None:
        tables["sink_mechanics"] = story.mechanics
        caption = "Whether the sinks' keys win by their direction or their length, and what the "
        caption += "sinks carry."
        draw = partial(plots.sink_mechanics, story.mechanics)
        figures.append(drawn("sink_mechanics", "Why heads attend to them", caption, draw))
    if story.effects is not None:
        tables |= _tables(story.effects)
        figures += _figures(story.effects, CONTROLS)
    known = {describe(story.findings.sinks), describe(story.findings.massive)}
    return Section(
        "explanation",
        "Where they come from and what they do",
        [line for line in story.words.splitlines() if line not in known],
        figures=figures,
        tables=tables,
        meaning=MEANING,
    )


def effects_section(measured: "Effects") -> "Section":
    """What edits changed, in figures and tables."""
    from sinkscope.analysis.words import describe
    from sinkscope.reports.sections import Section

    words = describe(measured.summary).splitlines()
    figures, tables = _figures(measured, ()), _tables(measured)
    title = "What the interventions changed"
    return Section("effects", title, words, figures=figures, tables=tables, meaning=MEANING)


def _tables(measured: "Effects") -> dict:
    return {"effects": measured.summary, "effects_by_clip": measured.clips}


def _figures(measured: "Effects", controls: Sequence[str]) -> "list[RunFigure]":
    from sinkscope import plots
    from sinkscope.analysis.effects import BEFORE, METRICS
    from sinkscope.reports.figures import drawn

    summary = measured.summary
    held = set(summary.loc[summary["condition"] != BEFORE, "metric"])
    return [
        drawn(
            f"effects_{metric}",
            f"What interventions do: {METRICS[metric]}",
            "Each dot is the mean over the clips under one intervention; the dashed line is the "
            "model as it is.",
            partial(plots.effects, summary, metric=metric, controls=tuple(controls)),
        )
        for metric in SHOWN
        if metric in held
    ]
