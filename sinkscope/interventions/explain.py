"""explain: from a model that nobody has looked at to a tested story of its sinks, in one call.

Example:
    >>> import sinkscope as ss
    >>> story = ss.explain("tiny-avsr", [ss.read_clip(p) for p in ss.bundled_clips()])
    ... # doctest: +SKIP
    >>> print(story.words)   # doctest: +SKIP
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from sinkscope.analysis.thresholds import Thresholds
from sinkscope.interventions.causal_tests import case_of, causal_tests
from sinkscope.interventions.findings import Findings, find_origins
from sinkscope.interventions.measure import Effects, row_of, run_conditions, summarise
from sinkscope.interventions.mechanics import mechanics_of
from sinkscope.interventions.samples import samples_of
from sinkscope.interventions.standard import standard_interventions
from sinkscope.interventions.story import tell
from sinkscope.record import Record

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True, eq=False)
class Explanation:
    """A tested story.

    Attributes:
        words: a few paragraphs, one a line.
        findings: sinks, massive activations and their origin.
        mechanics: why heads attend to the sinks, and what these carry; None without a sink.
        tests: the causal tests, with the share of clips that agree.
        effects: what the interventions did to loss, word errors, sinks and massive activations;
            None where nothing was found.
    """

    words: str
    findings: Findings
    mechanics: pd.DataFrame | None
    tests: pd.DataFrame
    effects: Effects | None


def explain(
    subject: Any,
    data: Any = None,
    *,
    input_ids: Tensor | Sequence[Any] | None = None,
    prepend_bos: bool | None = None,
    rules: Thresholds | None = None,
    seen: Record | None = None,
    transcribe: bool = True,
    max_new_tokens: int = 64,
    draws: int = 2000,
    seed: int = 0,
    advance: Callable[[], None] | None = None,
) -> Explanation:
    """Find sinks, features, block of birth and neurons; test them by intervention; tell it.

    Args:
        subject: a `Subject`, or anything that ``load`` takes.
        data: a clip or several, a text or several; the more, the narrower the intervals.
        input_ids: token ids ``(sample, token)`` instead, or rows of unequal length.
        prepend_bos: whether samples begin with BOS; clips are then not transcribed.
        rules: when a token is a sink and an activation massive.
        seen: the default record of this data, where there is one already.
        transcribe: whether clips are transcribed, for the word error rate.
        max_new_tokens: of a transcript.
        draws: of the bootstrap over clips.
        seed: of the controls and the bootstrap.
        advance: called after every clip and condition.

    Raises:
        InputError: there is no data, or the subject cannot take it.
    """
    samples = samples_of(data, input_ids=input_ids, prepend_bos=prepend_bos)
    found = find_origins(subject, samples, rules=rules, seen=seen)
    conditions = standard_interventions(found, seed=seed)
    rows, cases = [], []
    how = {"transcribe": transcribe, "max_new_tokens": max_new_tokens}
    runs = run_conditions(found.subject, found.data, conditions, **how) if conditions else ()
    for run in runs:
        rows.append(row_of(run, found.rules))
        cases.append((run.condition, case_of(run, found.rules, found.features)))
        if advance is not None:
            advance()
    tests = causal_tests(cases, draws=draws, seed=seed)
    measured = None
    if rows:
        measured = summarise(rows, found.subject, found.rules, draws=draws, seed=seed)
    mechanics = mechanics_of(found)
    return Explanation(tell(found, mechanics, tests, measured), found, mechanics, tests, measured)
