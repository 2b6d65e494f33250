"""measure: what interventions do to loss, word errors, predictions, sinks and massive activations.

Example:
    >>> import sinkscope as ss
    >>> subject, clips = ss.load("tiny-avsr"), []
    >>> edits = {"no MLP 0": ss.knock_out(layers=0, part="mlp")}
    >>> ss.measure(subject, clips, edits).summary   # doctest: +SKIP
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from sinkscope.analysis.effects import BEFORE, effects
from sinkscope.analysis.thresholds import Thresholds
from sinkscope.errors import InputError
from sinkscope.interventions.intervene import intervene
from sinkscope.interventions.observe import Observation, observe
from sinkscope.interventions.samples import Sample, samples_of
from sinkscope.interventions.session import AnyEdit, Session
from sinkscope.interventions.targets import Target
from sinkscope.subjects.subject import Subject, load

__all__ = ["Effects", "Run", "measure", "row_of", "run_conditions", "summarise"]

Edits = AnyEdit | list[AnyEdit] | tuple[AnyEdit, ...]


@dataclass(frozen=True, eq=False)
class Effects:
    """What interventions changed.

    Attributes:
        summary: one row a condition and metric: see ``sinkscope.analysis.effects``.
        clips: one row a condition and clip: ``condition``, ``sample``, ``clip``, ``loss``, ``kl``,
            the sinks' numbers, ``words``, ``errors`` and ``transcript``.
    """

    summary: pd.DataFrame
    clips: pd.DataFrame


def measure(
    subject: Any,
    data: Any,
    interventions: Mapping[str, Any] | Sequence[Any] | Any,
    *,
    input_ids: Tensor | Sequence[Any] | None = None,
    rules: Thresholds | None = None,
    transcribe: bool = True,
    max_new_tokens: int = 64,
    draws: int = 2000,
    seed: int = 0,
    advance: Callable[[], None] | None = None,
) -> Effects:
    """Run a subject on clips or texts without and with interventions, and compare.

    Args:
        subject: a `Subject`, or anything that ``load`` takes.
        data: a clip or several, a text or several. Loss and divergence need a clip's text.
        interventions: edits by the name of their condition; or the edits of one. Tables that they
            name as ``at=`` must be of this data, in its order.
        input_ids: token ids ``(sample, token)`` instead of data, which is None then.
        rules: when a token is a sink and an activation massive.
        transcribe: whether clips are transcribed, for the word error rate.
        max_new_tokens: of a transcript.
        draws: of the bootstrap over clips.
        seed: of the bootstrap.
        advance: called after every clip and condition.

    Returns:
        The effects; the condition ``"before"`` is the subject as it is.

    Raises:
        InputError: no data, a condition called ``"before"``, or edits that do not fit.
    """
    subject = load(subject)
    several = samples_of(data, input_ids=input_ids)
    named: dict[str, Any] = {"edited": interventions}
    if isinstance(interventions, Mapping):
        named = dict(interventions)
    if BEFORE in named:
        raise InputError(f"measure: {BEFORE!r} is the subject as it is; name the edits otherwise.")
    for edits in named.values():
        Session(subject, _of_sample(edits, 0)).refuse_unfit()
    rules = rules or Thresholds()
    runs = run_conditions(
        subject, several, named, transcribe=transcribe, max_new_tokens=max_new_tokens
    )
    rows = []
    for run in runs:
        rows.append(row_of(run, rules))
        if advance is not None:
            advance()
    return summarise(rows, subject, rules, draws=draws, seed=seed)


@dataclass(frozen=True, eq=False)
class Run:
    """One sample under one condition.

    Attributes:
        condition: its name.
        sample: number of the clip or text.
        before: what the subject does as it is.
        after: what it does under the condition.
        idle: whether the condition names nothing in this sample, so that ``after`` is ``before``.
    """

    condition: str
    sample: int
    before: Observation
    after: Observation
    idle: bool = False


def run_conditions(
    subject: Subject,
    data: Sequence[Sample],
    named: Mapping[str, Any],
    *,
    transcribe: bool = True,
    max_new_tokens: int = 64,
) -> Iterator[Run]:
    """Every sample as it is and under every condition, sample by sample."""
    how = {"transcribe": transcribe, "max_new_tokens": max_new_tokens}
    for sample, one in enumerate(data):
        before = observe(subject, one, **how)
        yield Run(BEFORE, sample, before, before)
        for name, edits in named.items():
            own = _of_sample(edits, sample)
            if not any(_names_something(edit) for edit in own):
                yield Run(name, sample, before, before, idle=True)
                continue
            with intervene(subject, own, allow_idle=True):
                after = observe(subject, one, **how)
            yield Run(name, sample, before, after)


def row_of(run: Run, rules: Thresholds) -> dict[str, Any]:
    """The row of one sample and condition in the table of clips."""
    clip = run.before.record.clips[0]
    about = {"sample": run.sample, "clip": clip.name if clip else f"sample {run.sample}"}
    return {"condition": run.condition, **about, **run.after.numbers(rules, run.before)}


def summarise(
    rows: Sequence[Mapping[str, Any]],
    subject: Subject,
    rules: Thresholds,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Effects:
    """The effects that the rows of all samples and conditions show."""
    table = pd.DataFrame(list(rows))
    table.attrs = {"table": "measured", **_about(subject, rules)}
    return Effects(effects(table, draws=draws, seed=seed), table)


def _of_sample(edits: Edits, sample: int) -> list[AnyEdit]:
    """The edits for one sample alone, which will be run more than once."""
    several = list(edits) if isinstance(edits, list | tuple) else [edits]
    return [edit.for_sample(sample) if isinstance(edit, Target) else edit for edit in several]


def _names_something(edit: AnyEdit) -> bool:
    """Whether an edit of one sample alone names anything in it."""
    return not isinstance(edit, Target) or edit.names(0)


def _about(subject: Subject, rules: Thresholds) -> dict[str, Any]:
    return {
        "subject": subject.name,
        "threshold": rules.threshold,
        "min_heads": rules.min_heads,
        "min_queries": rules.min_queries,
        "ratio": rules.ratio if rules.ratio is not None else subject.massive_ratio,
    }
