"""Pairs of records that differ by what was planted: a feature, a sink, a direction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sinkscope.record import ClipSummary, Record, merge
from tests.fake_records import av_clip, av_layout, causal, record_from, softmax_map

TOKENS = 40
TEXTS = ("bin blue at f two", "lay red in g six now", "set white by k nine please")


@dataclass(frozen=True)
class Plan:
    """What one model has.

    Attributes:
        features: massive features and their size, at BOS and at the sink.
        sink: label of the intermediate sink, or "".
        twin: label of a token whose state is BOS's, or "".
        layers: layers in which features are massive; the sink draws in those that follow.
        n_layers: number of blocks.
        width: features of a state.
        heads: attention heads.
        silent: features that are 0 everywhere.
        ratio: the subject's own ratio.
        subject: its name.
    """

    features: tuple[tuple[int, float], ...] = ((7, 400.0), (29, -300.0), (57, 250.0))
    sink: str = "</audio>"
    twin: str = "a3"
    layers: tuple[int, ...] = (1, 2)
    silent: tuple[int, ...] = ()
    n_layers: int = 4
    width: int = 64
    heads: int = 4
    ratio: float | None = 50.0
    subject: str = "before"


BASE = Plan()


def clip_record(plan: Plan, clip: int, *, has_bos: bool = True, tokens: int = TOKENS) -> Record:
    """One clip through the planted model; clips differ in length and noise, models in the plan."""
    rng = np.random.default_rng(clip)
    layout = av_layout(tokens + 2 * clip, has_bos=has_bos)
    length, labels = len(layout), list(layout.labels)
    scores = rng.normal(0, 0.3, (plan.n_layers, plan.heads, length, length))
    states = rng.normal(0, 1, (plan.n_layers, length, plan.width))
    massive = [0] * has_bos + [i for i, label in enumerate(labels) if label == plan.sink]
    for layer in plan.layers:
        for feature, size in plan.features:
            states[layer, massive, feature] = size * (1 + 0.1 * clip)
        if plan.sink:
            scores[layer + 1, :, :, labels.index(plan.sink)] += 5.0
    if plan.twin:
        states[:, labels.index(plan.twin)] = states[:, 0]
    states[..., list(plan.silent)] = 0
    summary = replace(av_clip(2.0 + clip), name=f"clip-{clip}", text=TEXTS[clip % len(TEXTS)])
    return record_from(
        softmax_map(scores, causal(length)),
        states,
        layout,
        keep=["pattern"],
        massive_ratio=plan.ratio,
        prepend_bos=has_bos,
        clip=summary,
        subject=plan.subject,
    )


def clips_record(plan: Plan = BASE, *, clips: Sequence[int] = (0, 1, 2)) -> Record:
    """Several clips through the planted model."""
    return merge([clip_record(plan, clip) for clip in clips])


def with_clip(record: Record, **changes: object) -> Record:
    """A record of one sample whose clip's summary is another."""
    clip = record.clips[0]
    assert isinstance(clip, ClipSummary)
    return replace(record, clips=(replace(clip, **changes),))  # pyright: ignore[reportArgumentType]
