"""The section of a report on the experts of a model with mixtures of experts (MoME)."""

from functools import partial

import pandas as pd

from sinkscope import plots
from sinkscope.analysis.experts import expert_balance, expert_usage
from sinkscope.analysis.sink_experts import sink_experts
from sinkscope.analysis.words import describe
from sinkscope.record import Record
from sinkscope.reports.figures import drawn
from sinkscope.reports.sections import Section

__all__ = ["MEANING", "experts_section"]

CAPTION = (
    "Each row is a layer, each column a routed expert; a bright cell is an expert that many of the "
    "tokens get. Experts of one number in two layers are different experts."
)

MEANING = {
    "expert_usage": "How often every routed expert is chosen, in each layer and segment.",
    "expert_balance": "How evenly the experts of a layer work: entropy of their usage, entropy of "
    "single tokens, E · Σ f p, the busiest expert.",
    "sink_experts": "Whether the sinks of a layer get one expert, against as many other tokens "
    "of their segment and of the clip.",
}
"""What each table of the section holds."""


def experts_section(record: Record, sinks: pd.DataFrame) -> Section:
    """What the experts do, for ``write_run``, which adds it where a record holds a router.

    Args:
        record: one or several samples of a model with mixtures of experts.
        sinks: what ``find_sinks`` returned for it.

    Raises:
        SiteError: the record holds no router.
    """
    tables = {
        "expert_usage": expert_usage(record),
        "expert_balance": expert_balance(record),
        "sink_experts": sink_experts(record, sinks),
    }
    draw = partial(plots.expert_usage, tables["expert_usage"])
    return Section(
        "experts",
        "Experts",
        [describe(table) for table in tables.values()],
        tables,
        MEANING,
        [drawn("expert_usage", "Which experts work", CAPTION, draw)],
    )
