"""The section of a report on input controls."""

from functools import partial

import pandas as pd

from sinkscope import plots
from sinkscope.analysis.control_words import control_sentences
from sinkscope.reports.figures import drawn
from sinkscope.reports.sections import Section

__all__ = ["controls_section"]

CAPTION = (
    "What is left of the sinks and of the largest activation when the input is changed. A sink "
    "that stays under silence or a frozen picture does not need what was said or seen there; one "
    "that moves when sound and picture change places depends on its place. Where one token is "
    "repeated and positions are rotary, all tokens have one state: what differs is position alone."
)
MEANING = "Each input as it is, and under each control: sinks, massive activations, or why not."


def controls_section(controls: pd.DataFrame) -> Section:
    """What ``input_controls`` returned, as a section for ``write_run``.

    Raises:
        InputError: if the table is another one.
    """
    draw = partial(plots.input_controls, controls)
    figure = drawn("input_controls", "Before and under each control", CAPTION, draw)
    return Section(
        "input_controls",
        "Input controls",
        control_sentences(controls),
        {"input_controls": controls},
        {"input_controls": MEANING},
        [figure],
    )
