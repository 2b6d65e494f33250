"""What a subject does with one sample: what it predicts, what it writes, where its sinks are.

Next tokens are judged where there is something to predict: the transcript of a clip, all but the
first token of a text.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from sinkscope.analysis.attention import key_attention
from sinkscope.analysis.finding import find_sinks
from sinkscope.analysis.massive import find_massive_activations
from sinkscope.analysis.tables import references
from sinkscope.analysis.thresholds import Thresholds
from sinkscope.avsr.clip import Clip
from sinkscope.avsr.scoring import utterance_errors
from sinkscope.interventions.samples import Sample
from sinkscope.probes.reducers import Median, Reducer, SegmentAttention, TopActivations
from sinkscope.probes.tracking import announce
from sinkscope.record import Record
from sinkscope.subjects.avsr import AvsrSubject
from sinkscope.subjects.subject import ModelInputs, Subject

__all__ = ["Observation", "observe", "sink_numbers"]

REDUCERS: tuple[Reducer, ...] = (
    SegmentAttention(),
    TopActivations("resid_post", k=8),
    Median("resid_post"),
)


@dataclass(frozen=True, eq=False)
class Observation:
    """One sample, run once.

    Attributes:
        record: the default forward's attention and largest activations.
        logits: of the tokens that had something to predict; None where nothing had.
        targets: what came there.
        transcript: what was written; None for texts.
        said: what was said; "" where unknown.
    """

    record: Record
    logits: Float[Tensor, "target vocabulary"] | None
    targets: Int[Tensor, " target"] | None
    transcript: str | None = None
    said: str = ""

    def numbers(self, rules: Thresholds, before: "Observation") -> dict[str, Any]:
        """The metrics of ``effects``, compared with the observation before."""
        found: dict[str, Any] = {
            "loss": float("nan"),
            "kl": float("nan"),
            **sink_numbers(self.record, rules),
            "words": 0,
            "errors": 0,
            "transcript": self.transcript or "",
        }
        if self.logits is not None and self.targets is not None and before.logits is not None:
            found["loss"] = float(functional.cross_entropy(self.logits, self.targets))
            found["kl"] = _divergence(before.logits, self.logits)
        if self.transcript is not None and self.said.split():
            errors = utterance_errors(self.said, self.transcript)
            found |= {"words": errors.words, "errors": errors.wrong}
        return found


def observe(
    subject: Subject, one: Sample, *, transcribe: bool = True, max_new_tokens: int = 64
) -> Observation:
    """Run a subject on one sample: for its record, its predictions, and its transcript.

    An encoder predicts nothing: its observation is the record.
    """
    seen = one.record(subject, reducers=REDUCERS)
    if not subject.anatomy.causal:
        return Observation(seen, None, None)
    clip = one.data
    if not isinstance(clip, Clip) or not isinstance(subject, AvsrSubject):
        return Observation(seen, *_predicted(subject, one))
    said, written = clip.text or "", None
    logits = targets = None
    if said:
        logits, targets = _predicted(replace(subject, with_transcript=True), one)
    if transcribe and not one.given:
        written = subject.transcribe(clip, max_new_tokens=max_new_tokens)
    return Observation(seen, logits, targets, written, said)


def sink_numbers(seen: Record, rules: Thresholds) -> dict[str, float]:
    """How strong the sinks and massive activations of one sample are, in five numbers.

    ``sink_rate`` is Gu et al.'s (arXiv 2410.10781) of the reference token: the share of the heads
    of all layers whose key attention to it passes the threshold; none where fewer queries than
    ``min_queries`` see it, as when it is hidden.
    """
    sinks = find_sinks(seen, **rules.of_sinks)
    massive = find_massive_activations(seen, **rules.of_massive)
    reference = int(references(seen)[0])
    judged = seen["queries"].sum("segment").isel(key=reference) >= rules.min_queries
    passing = (key_attention(seen).isel(key=reference) > rules.threshold) & judged
    tokens = sinks.drop_duplicates("token")
    pairs = massive.drop_duplicates(["token", "feature"])
    return {
        "sink_rate": float(passing.mean()),
        "largest_sink_rate": float(sinks.attrs["largest_sink_rate"] or 0.0),
        "sinks": float(len(tokens)),
        "intermediate_sinks": float(tokens["kind"].tolist().count("intermediate")),
        "largest_ratio": float(massive.attrs["largest_ratio"]),
        "massive": float(len(pairs)),
    }


@torch.no_grad()
def _predicted(subject: Subject, one: Sample) -> tuple[Tensor | None, Tensor | None]:
    """The logits before every token that is to be predicted, in float32 on the CPU, and it."""
    inputs = next(one.batches(subject))
    announce(subject.anatomy.decoder, inputs.layouts, inputs.clips)
    logits = subject.forward(inputs).logits[0].float().cpu()
    targets = _targets(inputs)
    if targets is None:
        return None, None
    judged = targets[1:] >= 0
    return logits[:-1][judged], targets[1:][judged]


def _targets(inputs: ModelInputs) -> Tensor | None:
    """For every position the token that should stand there, -100 where none is judged."""
    prepared = inputs.kwargs.get("inputs")
    labels = inputs.kwargs.get("input_ids") if prepared is None else prepared.labels
    return None if labels is None else labels[0].cpu()


def _divergence(before: Tensor, after: Tensor) -> float:
    """Mean over tokens of KL(before || after), nats."""
    first, then = (functional.log_softmax(logits.double(), -1) for logits in (before, after))
    return float((first.exp() * (first - then)).sum(-1).mean())
