"""standard_interventions: the causal tests of the field on what was found, each with its control.

Sun et al. (arXiv 2402.17762) set massive activations of the first massive block to zero or to their
mean over other sequences; 2510.22603 rotates states towards and away from BOS. The controls change
as many features, neurons or tokens that were not found.
"""

import numpy as np
import pandas as pd

from sinkscope.interventions.draws import Draws
from sinkscope.interventions.edits import Edit, Replace, Zero
from sinkscope.interventions.findings import Findings
from sinkscope.interventions.rotation import Rotate

__all__ = ["CONDITIONS", "CONTROLS", "leading_neurons", "standard_interventions"]

MOST_NEURONS = 8
"""Neurons that are silenced at most in a layer."""

CONDITIONS: dict[str, str] = {
    "zero massive": "massive activations set to 0 in the block of birth",
    "mean massive": "massive activations set to their mean over the other clips, there",
    "zero random features": "as many other features of the same tokens set to 0, there",
    "zero median features": "as many features of median size set to 0, there",
    "zero at random tokens": "the same features of as many ordinary tokens set to 0, there",
    "silence neurons": "the neurons that write them set to 0, at every token",
    "silence random neurons": "as many other neurons of the same layers set to 0, at every token",
    "silence experts": "what experts add set to 0 in the blocks where they write them, at every "
    "token",
    "silence other experts": "the same in as many other blocks",
    "turn sinks away": "sinks and massive tokens but the reference turned to the mean direction of "
    "the ordinary tokens, entering the block of birth",
    "turn ordinary away": "as many ordinary tokens turned to that direction, there",
    "turn BOS away": "the reference token (BOS, else the first) turned to that direction, there",
    "turn ordinary to BOS": "one ordinary token turned to the reference token's direction, there",
}
"""What each condition does."""

CONTROLS = (
    "zero random features",
    "zero median features",
    "zero at random tokens",
    "silence random neurons",
    "silence other experts",
    "turn ordinary away",
)
"""The conditions in which nothing of the story should happen."""


def standard_interventions(found: Findings, *, seed: int = 0) -> dict[str, list[Edit]]:
    """The conditions for ``measure``, by name; those that the findings allow.

    Args:
        found: what ``find_origins`` gave.
        seed: of the controls' draws.

    Returns:
        Edits by the names of ``CONDITIONS``. Without massive activations the traced features of
        the sinks take their place; a mean over other clips needs two.
    """
    if found.origin is None:
        return {}
    draw = Draws(found, np.random.default_rng(seed))
    births = draw.births
    conditions: dict[str, list[Edit]] = {
        "zero massive": [Zero(at=births)],
        "zero random features": [Zero(at=draw.features("random"))],
        "zero median features": [Zero(at=draw.features("median"))],
        "zero at random tokens": [Zero(at=draw.other_tokens(births))],
    }
    means = mean_over_other_samples(births)
    if len(means):
        conditions["mean massive"] = [Replace(at=means)]
    conditions |= _of_neurons(found, draw)
    conditions |= _of_experts(found, draw)
    conditions |= _rotations(found, draw)
    return {name: conditions[name] for name in CONDITIONS if name in conditions}


def mean_over_other_samples(births: pd.DataFrame) -> pd.DataFrame:
    """The births with ``replacement``: the mean value of the same kind of token in other samples.

    Kinds are told by segment and label, but audio and video tokens by segment alone. Rows whose
    kind no other sample has are left out.
    """
    labels = births["label"].where(~births["segment"].isin(["audio", "video"]), "")
    keys = [births["layer"], births["segment"], labels, births["feature"]]
    every = births["leaving"].groupby(keys)
    own = births["leaving"].groupby([births["sample"], *keys])
    total, count = (
        every.transform(how).to_numpy() - own.transform(how).to_numpy() for how in ("sum", "count")
    )
    mean = np.divide(total, count, out=np.full(len(births), np.nan), where=count > 0)
    found = births.assign(replacement=mean)
    found.attrs = births.attrs
    return found.loc[found["replacement"].notna()]


def _of_neurons(found: Findings, draw: Draws) -> dict[str, list[Edit]]:
    chosen = leading_neurons(found)
    if not chosen:
        return {}

    def silence(neurons: dict[int, list[int]]) -> list[Edit]:
        return [
            Zero(site="mlp_act", layers=layer, features=which) for layer, which in neurons.items()
        ]

    others = {layer: draw.other_neurons(layer, which) for layer, which in chosen.items()}
    return {"silence neurons": silence(chosen), "silence random neurons": silence(others)}


def _of_experts(found: Findings, draw: Draws) -> dict[str, list[Edit]]:
    """The mixtures of the blocks where experts give birth, and as many others."""
    births = found.births
    chosen = sorted(set(births.loc[births["part"] == "experts", "layer"].tolist()))
    if not chosen:
        return {}
    others = draw.other_experts(chosen)
    conditions: dict[str, list[Edit]] = {
        "silence experts": [Zero(site="expert_out", layers=chosen)]
    }
    if others:
        conditions["silence other experts"] = [Zero(site="expert_out", layers=others)]
    return conditions


def leading_neurons(found: Findings) -> dict[int, list[int]]:
    """For each block of birth, the neurons that explain half of what its MLP wrote, by layer."""
    if found.origin is None:
        return {}
    births = found.births
    by_mlp = births.loc[births["part"] == "mlp", ["sample", "layer", "token", "feature", "n_half"]]
    joined = found.origin.neurons.merge(by_mlp, on=["sample", "layer", "token", "feature"])
    needed = joined.loc[joined["rank"] < joined["n_half"].fillna(0)]
    chosen: dict[int, list[int]] = {}
    for layer, own in needed.groupby("layer"):
        size = own["contribution"].abs().groupby(own["neuron"]).sum().sort_values(ascending=False)
        chosen[int(str(layer))] = [int(neuron) for neuron in size.index[:MOST_NEURONS]]
    return chosen


def _rotations(found: Findings, draw: Draws) -> dict[str, list[Edit]]:
    """Turns at the input of the block of birth of each sample's reference, or of its first."""
    sinks = draw.rows(lambda sample, layout: draw.sinks(sample))
    one = draw.rows(lambda sample, layout: draw.ordinary(sample, 1))
    turned = {
        "turn sinks away": lambda sample, layout: draw.sinks(sample),
        "turn ordinary away": lambda sample, layout: draw.ordinary(sample, len(draw.sinks(sample))),
        "turn BOS away": lambda sample, layout: [layout.reference],
    }
    away: dict[str, list[Edit]] = {
        name: [Rotate(at=draw.rows(draw.sparing(which)), toward="mean_other", without=sinks)]
        for name, which in turned.items()
    }
    return {
        **away,
        "turn ordinary to BOS": [
            Rotate(at=one.loc[one["reference"] == reference], toward=int(reference))
            for reference in sorted(set(one["reference"]))
        ],
    }
