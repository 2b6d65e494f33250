"""Causal tests: does each clip do under an intervention what the story of the sinks says?

A test looks at one clip before and after, and answers yes, no, or nothing to test. How often the
answer is yes, over clips, is what an explanation reports.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from sinkscope.analysis.bootstrap import bootstrap_interval, bootstrap_weights
from sinkscope.analysis.finding import find_sinks
from sinkscope.analysis.massive import find_massive_activations
from sinkscope.analysis.thresholds import Thresholds
from sinkscope.interventions.measure import Run
from sinkscope.interventions.standard import CONTROLS
from sinkscope.record import Record

__all__ = ["TESTS", "Case", "CausalTest", "case_of", "causal_tests"]


@dataclass(frozen=True)
class Seen:
    """The sinks and massive activations of one sample.

    Attributes:
        sinks: tokens that are a sink in some layer.
        massive: tokens and features that are massive in some layer.
    """

    sinks: frozenset[int]
    massive: frozenset[tuple[int, int]]

    @property
    def massive_tokens(self) -> frozenset[int]:
        """Tokens with a massive activation."""
        return frozenset(token for token, _ in self.massive)


@dataclass(frozen=True)
class Case:
    """One sample before and after an intervention.

    Attributes:
        reference: its reference token (BOS).
        before: what is there without.
        after: what is there with it.
        idle: whether there was nothing to change.
    """

    reference: int
    before: Seen
    after: Seen
    idle: bool = False


Answer = Callable[[Case], bool | None]


@dataclass(frozen=True)
class CausalTest:
    """One claim about one condition.

    Attributes:
        condition: a name of ``standard_interventions``.
        claim: what should be seen in a clip.
        holds: whether it is; None where the clip has nothing to test.
    """

    condition: str
    claim: str
    holds: Answer = field(repr=False)

    @property
    def control(self) -> bool:
        """Whether the condition is a control, in which nothing should happen."""
        return self.condition in CONTROLS


def _no_massive_left(case: Case) -> bool | None:
    return not case.after.massive & case.before.massive if case.before.massive else None


def _no_sink_left(case: Case) -> bool | None:
    return not case.after.sinks & case.before.sinks if case.before.sinks else None


def _sinks_stay(case: Case) -> bool | None:
    return case.before.sinks <= case.after.sinks if case.before.sinks else None


def _as_before(case: Case) -> bool | None:
    if not case.before.sinks and not case.before.massive:
        return None
    same = case.before.massive_tokens == case.after.massive_tokens
    return same and case.before.sinks == case.after.sinks


def _others_lose_massive(case: Case) -> bool | None:
    there = case.before.massive_tokens - {case.reference}
    return not there & case.after.massive_tokens if there else None


def _others_lose_sinks(case: Case) -> bool | None:
    there = case.before.sinks - {case.reference}
    return not there & case.after.sinks if there else None


def _reference_loses(case: Case) -> bool | None:
    if case.reference not in case.before.massive_tokens | case.before.sinks:
        return None
    return case.reference not in case.after.massive_tokens | case.after.sinks


def _new_massive(case: Case) -> bool | None:
    if case.reference not in case.before.massive_tokens:
        return None
    return bool(case.after.massive_tokens - case.before.massive_tokens)


def _new_sink(case: Case) -> bool | None:
    if case.reference not in case.before.sinks:
        return None
    return bool(case.after.sinks - case.before.sinks)


TESTS: tuple[CausalTest, ...] = (
    CausalTest("silence neurons", "no massive activation is left", _no_massive_left),
    CausalTest("silence neurons", "no sink is left", _no_sink_left),
    CausalTest("silence random neurons", "sinks and massive tokens stay", _as_before),
    CausalTest("silence experts", "no massive activation is left", _no_massive_left),
    CausalTest("silence experts", "no sink is left", _no_sink_left),
    CausalTest("silence other experts", "sinks and massive tokens stay", _as_before),
    CausalTest("zero massive", "no sink is left", _no_sink_left),
    CausalTest("mean massive", "the sinks stay", _sinks_stay),
    CausalTest("zero random features", "sinks and massive tokens stay", _as_before),
    CausalTest("zero median features", "sinks and massive tokens stay", _as_before),
    CausalTest("zero at random tokens", "sinks and massive tokens stay", _as_before),
    CausalTest("turn sinks away", "they lose their massive activations", _others_lose_massive),
    CausalTest("turn sinks away", "they are no sinks any more", _others_lose_sinks),
    CausalTest("turn ordinary away", "the sinks stay", _sinks_stay),
    CausalTest("turn BOS away", "it is neither massive nor a sink any more", _reference_loses),
    CausalTest("turn ordinary to BOS", "it becomes massive", _new_massive),
    CausalTest("turn ordinary to BOS", "it becomes a sink", _new_sink),
)
"""The claims, with the condition that tests each."""


def case_of(run: Run, rules: Thresholds, features: Collection[int]) -> Case:
    """What the tests look at in one sample under one condition: its sinks and these features."""
    before, after = (_seen(one.record, rules, features) for one in (run.before, run.after))
    return Case(run.before.record.layouts[0].reference, before, after, run.idle)


def causal_tests(
    cases: Iterable[tuple[str, Case]], *, draws: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """In how many samples each claim holds.

    Args:
        cases: every sample under every condition of ``standard_interventions``, with its name.
        draws: of the bootstrap over samples.
        seed: of the bootstrap.

    Returns:
        One row a test whose condition was run: ``condition``, ``claim``, ``control``, ``clips``
        (samples that had something to test and to change), ``yes``, ``share``, ``low`` and
        ``high`` (95 % bootstrap interval over those samples, NaN for one).
    """
    answers: dict[CausalTest, list[bool]] = {}
    for condition, case in cases:
        for test in TESTS:
            if test.condition != condition:
                continue
            held = answers.setdefault(test, [])
            answer = None if case.idle else test.holds(case)
            if answer is not None:
                held.append(answer)
    rows = [_row(test, answers[test], draws, seed) for test in TESTS if test in answers]
    columns = ["condition", "claim", "control", "clips", "yes", "share", "low", "high"]
    table = pd.DataFrame(rows, columns=columns)
    table.attrs = {"table": "causal_tests", "draws": draws, "seed": seed}
    return table


def _row(test: CausalTest, answers: list[bool], draws: int, seed: int) -> dict[str, object]:
    share = low = high = float("nan")
    if answers:
        yes = np.array(answers, float)
        weights = bootstrap_weights(len(yes), draws=draws, seed=seed)
        point, lows, highs = bootstrap_interval(lambda w: (w @ yes / w.sum(-1))[:, None], weights)
        share, low, high = float(point[0]), float(lows[0]), float(highs[0])
    return {
        "condition": test.condition,
        "claim": test.claim,
        "control": test.control,
        "clips": len(answers),
        "yes": sum(answers),
        "share": share,
        "low": low,
        "high": high,
    }


def _seen(record: Record, rules: Thresholds, features: Collection[int]) -> Seen:
    sinks = find_sinks(record, **rules.of_sinks)
    massive = find_massive_activations(record, **rules.of_massive)
    massive = massive.loc[massive["feature"].isin(list(features))]
    pairs = zip(massive["token"].tolist(), massive["feature"].tolist(), strict=True)
    return Seen(frozenset(sinks["token"].tolist()), frozenset(pairs))
