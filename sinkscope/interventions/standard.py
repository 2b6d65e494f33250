"""standard_interventions: the causal tests of the field on what was found, each with its control.

Sun et al. (arXiv 2402.17762) set massive activations of the first massive block to zero or to their
mean over other sequences; 2510.22603 rotates states towards and away from BOS. The controls change
as many features, neurons or tokens that were not found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sinkscope.interventions.edits import Edit, Replace, Zero
from sinkscope.interventions.findings import Findings
from sinkscope.interventions.rotation import Rotate
from sinkscope.layout import TokenLayout
from sinkscope.probes.pick import Pick

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
    draw = _Draw(found, np.random.default_rng(seed))
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


def _of_neurons(found: Findings, draw: "_Draw") -> dict[str, list[Edit]]:
    chosen = leading_neurons(found)
    if not chosen:
        return {}

    def silence(neurons: dict[int, list[int]]) -> list[Edit]:
        return [
            Zero(site="mlp_act", layers=layer, features=which) for layer, which in neurons.items()
        ]

    others = {layer: draw.other_neurons(layer, which) for layer, which in chosen.items()}
    return {"silence neurons": silence(chosen), "silence random neurons": silence(others)}


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


def _rotations(found: Findings, draw: "_Draw") -> dict[str, list[Edit]]:
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


@dataclass(eq=False)
class _Draw:
    """Draws for the controls, and the tables that they become."""

    found: Findings
    rng: np.random.Generator

    @property
    def births(self) -> pd.DataFrame:
        """What the conditions are about."""
        return self.found.births

    def rows(self, tokens: Any) -> pd.DataFrame:
        """A table of the tokens that a function of sample and layout names, at the birth layer."""
        found = []
        for sample, layout in enumerate(self.found.record.layouts):
            layer = self.birth_layer(sample)
            found += [
                (sample, layer, int(token), layout.labels[int(token)], layout.reference)
                for token in tokens(sample, layout)
            ]
        table = pd.DataFrame(found, columns=["sample", "layer", "token", "label", "reference"])
        table.attrs = {"samples": len(self.found.record)}
        return table

    def sinks(self, sample: int) -> list[int]:
        """What was found in a sample, but for its reference token."""
        reference = self.found.record.layouts[sample].reference
        return sorted(self.found.tokens[sample] - {reference})

    def sparing(self, tokens: Any) -> Any:
        """The tokens, in samples where others are left towards which they can be turned."""

        def chosen(sample: int, layout: TokenLayout) -> list[int]:
            which = tokens(sample, layout)
            taken = {*which, *self.sinks(sample), layout.reference}
            return which if len(layout) > len(taken) else []

        return chosen

    def birth_layer(self, sample: int) -> int:
        """Where most of a sample's values are born; of all samples where it has none."""
        own = self.births.loc[self.births["sample"] == sample, "layer"]
        return int((own if len(own) else self.births["layer"]).mode().iloc[0])

    def ordinary(self, sample: int, count: int) -> list[int]:
        """Tokens that were not found, seen by enough queries to be judged as sinks."""
        layout = self.found.record.layouts[sample]
        last = len(layout) - self.found.rules.min_queries
        taken = self.found.tokens[sample] | {layout.reference}
        free = [token for token in range(1, last) if token not in taken]
        chosen = self.rng.choice(free, min(count, len(free)), replace=False) if free else []
        return sorted(int(token) for token in chosen)

    def other_tokens(self, births: pd.DataFrame) -> pd.DataFrame:
        """The rows with ordinary tokens of the same sample in place of each token."""
        tables = []
        for sample, own in births.groupby("sample"):
            number = int(str(sample))
            tokens = sorted(set(own["token"]))
            other = self.ordinary(number, len(tokens))
            swap = dict(zip(tokens, other, strict=False))
            moved = own.loc[own["token"].isin(list(swap))]
            labels = self.found.record.layouts[number].labels
            place = moved["token"].map(swap).astype(np.int64)
            tables.append(moved.assign(token=place, label=[labels[int(t)] for t in place]))
        table = pd.concat(tables) if tables else births.iloc[:0]
        table.attrs = births.attrs
        return table

    def other_neurons(self, layer: int, taken: Sequence[int]) -> list[int]:
        """As many neurons of a layer that are not among those."""
        width = self.found.neurons_in(layer)
        free = np.setdiff1d(np.arange(width), list(taken))
        count = min(len(taken), len(free))
        return sorted(int(n) for n in self.rng.choice(free, count, replace=False))

    def features(self, kind: str) -> pd.DataFrame:
        """As many features at the same tokens: drawn at random, or of median size there."""
        tables = []
        for sample, own in self.births.groupby("sample"):
            states = self._states(int(str(sample)), own)
            for _, group in own.groupby(["layer", "token"]):
                layer, token = group["layer"].tolist()[0], group["token"].tolist()[0]
                state = np.abs(states[layer, token])
                free = np.setdiff1d(np.arange(len(state)), self.found.features)
                if kind == "random":
                    chosen = self.rng.choice(free, min(len(group), len(free)), replace=False)
                else:
                    order = np.abs(state[free] - np.median(state))
                    chosen = free[np.argsort(order, kind="stable")[: len(group)]]
                tables.append(group.iloc[: len(chosen)].assign(feature=np.sort(chosen)))
        table = pd.concat(tables)
        table.attrs = self.births.attrs
        return table

    def _states(self, sample: int, own: pd.DataFrame) -> dict[tuple[int, int], np.ndarray]:
        """The whole states that leave the blocks of birth, by layer and token."""
        tokens = tuple(sorted({int(token) for token in own["token"]}))
        layers = tuple(sorted({int(layer) for layer in own["layer"]}))
        pick = Pick("resid_post", tokens=tokens, layers=layers)
        seen = self.found.data[sample].record(self.found.subject, reducers=[pick])
        values = seen["picked_resid_post"].values[0]
        return {
            (layer, token): values[i, j]
            for i, layer in enumerate(layers)
            for j, token in enumerate(tokens)
        }
