"""Draws for controls: as many tokens, features or neurons that were not found, as tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sinkscope.interventions.findings import Findings
from sinkscope.layout import TokenLayout
from sinkscope.probes.pick import Pick

__all__ = ["Draws"]


@dataclass(eq=False)
class Draws:
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

    def other_experts(self, taken: Sequence[int]) -> list[int]:
        """As many layers with a mixture of experts that are not among those."""
        anatomy = self.found.subject.anatomy
        every = [i for i in range(anatomy.n_layers) if not anatomy.absence("expert_out", i)]
        free = np.setdiff1d(every, list(taken))
        count = min(len(taken), len(free))
        return sorted(int(layer) for layer in self.rng.choice(free, count, replace=False))

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
