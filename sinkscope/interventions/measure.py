"""measure: what interventions do to loss, word errors, predictions, sinks and massive activations.

Example:
    >>> import sinkscope as ss
    >>> subject, clips = ss.load("tiny-avsr"), []
    >>> edits = {"no MLP 0": ss.knock_out(layers=0, part="mlp")}
    >>> ss.measure(subject, clips, edits).summary   # doctest: +SKIP
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sinkscope.analysis.effects import BEFORE, effects
from sinkscope.errors import InputError
from sinkscope.interventions.blocking import BlockAttention
from sinkscope.interventions.edits import Edit
from sinkscope.interventions.intervene import intervene
from sinkscope.interventions.observe import SinkRules, observe
from sinkscope.interventions.session import AnyEdit
from sinkscope.subjects.subject import Subject, load

__all__ = ["Effects", "measure"]

Edits = AnyEdit | Sequence[AnyEdit]


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
    rules: SinkRules | None = None,
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
    several = list(data) if isinstance(data, list | tuple) else [data]
    if not several:
        raise InputError("measure: there is no clip or text; give at least one.")
    named = interventions if isinstance(interventions, Mapping) else {"edited": interventions}
    if BEFORE in named:
        raise InputError(f"measure: {BEFORE!r} is the subject as it is; name the edits otherwise.")
    rules = rules or SinkRules()
    how = {"transcribe": transcribe, "max_new_tokens": max_new_tokens}
    rows = []
    for sample, one in enumerate(several):
        before = observe(subject, one, **how)
        clip = before.record.clips[0]
        about = {"sample": sample, "clip": clip.name if clip else f"text {sample}"}
        rows.append({"condition": BEFORE, **about, **before.numbers(rules, before)})
        for name, edits in named.items():
            with intervene(subject, _of_sample(edits, sample), allow_idle=True):
                after = observe(subject, one, **how)
            rows.append({"condition": name, **about, **after.numbers(rules, before)})
            if advance is not None:
                advance()
    table = pd.DataFrame(rows)
    table.attrs = {"table": "measured", **_about(subject, rules)}
    return Effects(effects(table, draws=draws, seed=seed), table)


def _of_sample(edits: Edits, sample: int) -> list[AnyEdit]:
    """The edits for one sample alone, which will be run more than once."""
    several = list(edits) if isinstance(edits, Sequence) else [edits]
    return [
        edit.for_sample(sample) if isinstance(edit, Edit | BlockAttention) else edit
        for edit in several
    ]


def _about(subject: Subject, rules: SinkRules) -> dict[str, Any]:
    return {
        "subject": subject.name,
        "threshold": rules.threshold,
        "min_heads": rules.min_heads,
        "min_queries": rules.min_queries,
        "ratio": rules.ratio if rules.ratio is not None else subject.massive_ratio,
    }
