"""What is claimed of sinks in audio-visual recognisers, held against what was measured here.

The claims are those that arXiv 2510.22603 makes or is said to make; ``known_from`` tells which: its
abstract, its authors' page or figure, or only a summary by others, which was not checked against
the paper. Every verdict follows from numbers by the rule in its function, fixed before the numbers
were seen. "Here" is a language model of half a million weights: a claim that fails here may hold
for a large one. Depends on pandas.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sinkscope.experiments.decorrelation.evidence import Evidence, labels_of, share_of
from sinkscope.experiments.decorrelation.plan import LEVELS, TASKS
from sinkscope.experiments.decorrelation.results import difference, sample_of

__all__ = ["Claim", "judge"]

HOLDS, FAILS, PARTLY, OPEN = "supported", "not supported", "partly supported", "not testable here"
OFTEN = 0.1
"""A share of clips from which on something is said to occur."""
MOSTLY = 0.9


@dataclass(frozen=True)
class Claim:
    """A claim and its verdict.

    Attributes:
        name: C1 to C9.
        statement: what is claimed.
        known_from: "abstract", "authors' page", "figure" or "summary by others".
        verdict: one of four words.
        evidence: the numbers.
        figure: what shows it.
    """

    name: str
    statement: str
    known_from: str
    verdict: str
    evidence: str
    figure: str


def judge(evidence: Evidence) -> list[Claim]:
    """All claims, in their order."""
    rules: list[Callable[[Evidence], Claim]] = [_c1, _c2, _c3, _c4, _c5, _c6, _c7, _c8, _c9]
    return [rule(evidence) for rule in rules]


def _c1(e: Evidence) -> Claim:
    """Supported if BOS and another token are sinks in a tenth of the clips of every task."""
    words, often = [], []
    for task, modality in TASKS.items():
        sinks, clips = e.sinks(modality), e.clips(modality)
        share = {
            kind: own.drop_duplicates(["folder", "sample"]).shape[0] / clips
            for kind, own in sinks.groupby("kind")
        }
        bos, other = share.get("bos", 0.0), share.get("intermediate", 0.0)
        often.append((bos >= OFTEN) + (other >= OFTEN))
        words.append(f"{task}: BOS in {bos:.0%} of the clips, another token in {other:.0%}")
    verdict = HOLDS if min(often) == 2 else PARTLY if max(often) else FAILS
    return Claim(
        "C1",
        "Sinks stand at BOS and at intermediate tokens of low meaning, in ASR, VSR and AVSR",
        "abstract",
        verdict,
        f"Without the loss, {'; '.join(words)}. {_places(e)}",
        "places.png",
    )


def _places(e: Evidence) -> str:
    every = pd.concat([e.sinks(task) for task in TASKS.values()])
    every = every.loc[every["kind"] == "intermediate"]
    tokens = every.drop_duplicates(["folder", "sample", "token"])
    if not len(tokens):
        return "No intermediate sink was found."
    share = tokens["segment"].value_counts(normalize=True)
    said = ", ".join(f"{segment} {part:.0%}" for segment, part in share.items())
    return f"The {len(tokens)} intermediate sinks are: {said}."


def _c2(e: Evidence) -> Claim:
    """Supported if another token than BOS is a sink after training, and hardly before."""
    before = [e.mean("n_intermediate", "step zero"), e.mean("largest_sink_rate", "step zero")]
    after = [e.mean("n_intermediate", "shared"), e.mean("largest_sink_rate", "shared")]
    grew = before[0] < OFTEN <= after[0]
    verdict = HOLDS if grew and before[1] >= 0.5 else PARTLY if after[0] > before[0] else FAILS
    twins = [e.mean("n_twins", stage) for stage in ("step zero", "shared")]
    return Claim(
        "C2",
        "The sink at BOS is in the language model; intermediate sinks appear in fine-tuning",
        "summary by others",
        verdict,
        f"Before any step, {before[0]:.2f} intermediate sinks a clip, a sink rate of BOS of "
        f"{before[1]:.2f} and {twins[0]:.1f} twins of BOS; after the shared stage {after[0]:.2f}, "
        f"{after[1]:.2f} and {twins[1]:.1f}.",
        "numbers.png",
    )


def _c3(e: Evidence) -> Claim:
    """Supported if nine in ten sinks are massive, and nine in ten massive tokens are sinks."""
    sinks = pd.concat([e.sinks(task) for task in TASKS.values()])
    others = sinks.loc[sinks["kind"] == "intermediate"]
    massive = e.closer("feature_agreement")
    tokens = (
        massive.drop_duplicates(["seed", "setting", "sample", "token"]) if len(massive) else massive
    )
    if not len(others) and not len(tokens):
        return _claim_c3(OPEN, "No intermediate sink and no massive token was found.")
    own = share_of(others["massive"])
    also = share_of(tokens["is_sink"]) if len(tokens) else np.nan
    verdict = HOLDS if min(own, also) >= MOSTLY else FAILS if max(own, also) < 0.5 else PARTLY
    bos = share_of(sinks.loc[sinks["kind"] == "bos", "massive"])
    first, last = e.massive_layers()
    tokens_said = f"of {len(tokens)} massive tokens other than BOS {also:.0%} are sinks"
    return _claim_c3(
        verdict,
        f"Of the sinks at BOS {bos:.0%} are massive, of {len(others)} at other tokens {own:.0%}; "
        f"{tokens_said if len(tokens) else 'no token but BOS is massive where it was looked'}. BOS "
        f"is massive from block {first} to block {last} of blocks 0 to 3.",
    )


def _claim_c3(verdict: str, evidence: str) -> Claim:
    statement = "Massive activations stand exactly at the sinks, never in the first or last layer"
    return Claim("C3", statement, "summary by others", verdict, evidence, "numbers.png")


def _c4(e: Evidence) -> Claim:
    """Supported if nine in ten massive tokens have the very features that BOS has."""
    found = e.closer("feature_agreement")
    statement = "The massive features are the same at all sinks"
    if not len(found):
        return Claim("C4", statement, "summary by others", OPEN, "No token but BOS is massive.", "")
    same = share_of((found["shared"] == found["own"]) & (found["own"] == found["bos"]))
    inside = share_of(found["shared"] == found["own"])
    verdict = HOLDS if same >= MOSTLY else PARTLY if inside >= MOSTLY else FAILS
    return Claim(
        "C4",
        statement,
        "summary by others; the figure agrees",
        verdict,
        f"Of {len(found)} massive tokens (clip, layer) other than BOS ({labels_of(found)}), "
        f"{inside:.0%} have massive features of BOS only and {same:.0%} all of them; on average "
        f"they share {found['shared'].mean():.1f} of their {found['own'].mean():.1f}.",
        "",
    )


def _c5(e: Evidence) -> Claim:
    """Supported if an MLP writes nine tenths of what is massive, most of it by few neurons."""
    births = e.closer("births")
    statement = "They are made by an early MLP, through its gated linear unit"
    if not len(births):
        return Claim("C5", statement, "abstract; layer and gate: summary by others", OPEN, "", "")
    share = share_of(births["part"] == "mlp")
    layers = births.loc[births["part"] == "mlp", "layer"].value_counts(normalize=True)
    neurons = [_leading(own) for _, own in e.closer("neurons").groupby("seed")]
    verdict = HOLDS if share >= MOSTLY else PARTLY if share >= 0.5 else FAILS
    tests = _tested(e, "silence neurons", "no massive activation is left")
    return Claim(
        "C5",
        statement,
        "abstract; layer and gate: summary by others",
        verdict,
        f"{share:.0%} of {len(births)} births are an MLP's, {layers.iloc[0]:.0%} of those in block "
        f"{layers.index[0]} (from 0). The neuron that writes most writes "
        f"{', '.join(f'{part:.0%}' for part in neurons)} (by seed). Silencing those that explain "
        f"half of it leaves nothing massive in {tests}.",
        "",
    )


def _leading(neurons: pd.DataFrame) -> float:
    size = np.abs(neurons["contribution"].to_numpy(float))
    totals = np.bincount(neurons["neuron"].to_numpy(int), weights=size)
    return float(totals.max() / totals.sum())


def _tested(e: Evidence, condition: str, claim: str) -> str:
    yes, clips = e.counts(condition, claim)
    return f"{yes} of {clips} clips"


def _c6(e: Evidence) -> Claim:
    """Supported if sinks have a cosine above .8 to BOS on average, and others below .3."""
    found = e.closer("similarity")
    statement = "Intermediate sinks point where BOS points from an early layer on; others do not"
    means = {}
    if len(found):
        found = found.loc[found["layer"] < found["layer"].max()]
        means = dict(iter(found.groupby("kind")))
    if "sink" not in means:
        said = "No intermediate sink in the clips that were looked at closely."
        return Claim("C6", statement, "abstract; figure", OPEN, said, "")
    sink, other = (np.average(means[k]["mean"], weights=means[k]["tokens"]) for k in _KINDS)
    verdict = HOLDS if sink > 0.8 and other < 0.3 else PARTLY if sink > other + 0.3 else FAILS
    return Claim(
        "C6",
        statement,
        "abstract; figure",
        verdict,
        f"After blocks 0 to {found['layer'].max()} (from 0), the mean cosine to BOS is "
        f"{sink:.2f} at intermediate sinks and {other:.2f} at other tokens.",
        "",
    )


_KINDS = ("sink", "other")


def _c7(e: Evidence) -> Claim:
    """Supported if both rotations do what is claimed in nine of ten clips."""
    away = e.counts("turn sinks away", "they are no sinks any more")
    massive = e.counts("turn ordinary to BOS", "it becomes massive")
    sink = e.counts("turn ordinary to BOS", "it becomes a sink")
    shares = [yes / clips for yes, clips in (away, massive, sink) if clips] or [0.0]
    verdict = HOLDS if min(shares) >= MOSTLY else PARTLY if max(shares) >= 0.5 else FAILS
    return Claim(
        "C7",
        "Turning a sink's state away removes sink and massive activation; turning another token "
        "towards BOS makes both",
        "summary by others",
        verdict if any(clips for _, clips in (away, massive, sink)) else OPEN,
        f"Turned away before the block of birth, sinks are gone in {away[0]} of {away[1]} clips; "
        f"an ordinary token turned to BOS becomes massive in {massive[0]} of {massive[1]}, a sink "
        f"in {sink[0]} of {sink[1]}.",
        "",
    )


def _c8(e: Evidence) -> Claim:
    """Supported if intermediate sinks and massive tokens fall, and the errors at high rates too."""
    words, better = [], []
    for number, name in (("n_intermediate", "intermediate sinks"), ("n_massive_tokens", "massive")):
        change = e.change(number, list(LEVELS))
        better.append(change[2] < 0)
        words.append(f"{name} a clip {change[0]:+.2f} ({change[1]:+.2f} to {change[2]:+.2f})")
    errors = {}
    for level in LEVELS:
        errors[level] = e.change("wer", [level])
        point, low, high = (100 * x for x in errors[level])
        words.append(f"WER at {level} compression {point:+.1f} ({low:+.1f} to {high:+.1f}) points")
    helps, harms = errors["high"][2] < 0, errors["low"][1] > 0
    gone = all(better)
    verdict = HOLDS if gone and helps and not harms else PARTLY if any(better) or helps else FAILS
    return Claim(
        "C8",
        "The decorrelation loss removes intermediate sinks and massive activations, and lowers the "
        "word error rate at high compression while it stays at low compression",
        "abstract; authors' page",
        verdict,
        f"With the loss (full fine-tuning, mean over tasks): {'; '.join(words)}.",
        "wer.png",
    )


def _c9(e: Evidence) -> Claim:
    """Supported if a LayerNorm narrows the spread of seeds and does not raise the errors."""
    statement = "A LayerNorm at the projectors' end steadies training and costs no accuracy"
    spread, change = [], []
    for task in TASKS.values():
        for level in LEVELS:
            how = {"stage": "shared", "number": "wer"}
            base = sample_of(e.out, e.base, task, level, **how)
            normed = sample_of(e.out, e.normed, task, level, **how)
            if base is None or normed is None:
                return Claim("C9", statement, "authors' page", OPEN, "Not trained.", "")
            rates = [one.rates(np.ones((1, len(one.below))))[0] for one in (base, normed)]
            spread.append([own.std(ddof=1) for own in rates])
            change.append(difference(normed, base))
    before, after = 100 * np.mean(spread, axis=0)
    point, low, high = 100 * np.mean(change, axis=0)
    steadier, worse = after < before, low > 0
    verdict = HOLDS if steadier and not worse else FAILS if worse and not steadier else PARTLY
    return Claim(
        "C9",
        statement,
        "authors' page",
        verdict,
        f"After the shared stage the errors change by {point:+.1f} points ({low:+.1f} to "
        f"{high:+.1f}, mean of the intervals), and their standard deviation over {len(e.base)} "
        f"seeds from {before:.1f} to {after:.1f} points. No run diverged, with or without it.",
        "controls.png",
    )
