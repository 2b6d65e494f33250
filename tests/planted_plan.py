"""What is planted, and how: the truth as data, and the edits of the weights that make it true."""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from tests.planted_parts import WIDTH, Parts

MARK, CONSTANT, DECOY_MARK = 0, 1, 2
"""Features of the embedding: the mark of triggers, one that every token has, the decoy's mark."""
BOS_ID, TRIGGER_ID = 1, 5
VOCABULARY = 61
NOISE = 0.5
SLOT = 3
"""The coordinate of a head in which locked queries and keys meet: rotary embeddings of base 1e10
hardly turn it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to plant.

    Attributes:
        layer: the block that writes the massive features: ``resid_post[layer]`` has them first.
        features: the massive features.
        values: about what is written on each, on BOS.
        neurons: the neurons (of site ``mlp_act``) that write them: one for all, or one for each.
        heads: the heads that lock on the features, in the blocks after ``layer``. With at least
            half of the eight, a sink passes ``find_sinks``' ``min_heads``.
        trigger_share: the values of an intermediate trigger as a share of those of BOS (≥ 0.2).
        removed_layer: a later block whose MLP writes the opposite, or None. Its attention still
            reads the features: it is the last locked one. So that the two cancel to 1e-5, the
            blocks up to ``layer`` write nothing else.
        remover: the neuron that does so.
        born_in: "mlp", or "attention": then ``birth_head`` of block ``layer`` writes the features
            and no neuron does. Trigger queries attend to triggers there, all others to the rest.
        constant_outlier: decoy: a feature that is large on every token from block ``layer`` on,
            written by ``outlier_neuron`` with about ``outlier_value`` (half as much on triggers).
        cosine_decoy: decoy: id of a token that ``shadow_neuron`` of block ``layer`` gives the
            massive features too, so that it is a twin of BOS (cosine 0.86), and
            ``shadow_feature`` at 0.6 of their norm, from which locked heads turn away: no sink.
        decoy_neuron: decoy: a neuron of block ``layer`` that fires 4 times as much on triggers as
            the one that writes, and writes next to nothing.
    """

    layer: int = 1
    features: tuple[int, ...] = (37,)
    values: tuple[float, ...] = (3000.0,)
    neurons: tuple[int, ...] = (11,)
    heads: tuple[int, ...] = (1, 2, 5)
    trigger_share: float = 1.0
    removed_layer: int | None = None
    remover: int = 70
    born_in: str = "mlp"
    birth_head: int = 3
    constant_outlier: int | None = None
    outlier_value: float = 900.0
    outlier_neuron: int = 80
    cosine_decoy: int | None = None
    shadow_feature: int = 50
    shadow_neuron: int = 60
    decoy_neuron: int | None = None

    def __post_init__(self) -> None:
        if len(self.features) != len(self.values) or len(self.neurons) not in (
            1,
            len(self.features),
        ):
            raise ValueError(f"{self.features}, {self.values}, {self.neurons}: sizes do not fit.")
        if self.removed_layer is not None and (
            self.trigger_share != 1 or self.cosine_decoy is not None
        ):
            raise ValueError("One neuron removes one set of values: not with shares or a decoy.")

    @property
    def size(self) -> float:
        """The norm of the values."""
        return sqrt(sum(value**2 for value in self.values))

    @property
    def shadow(self) -> float:
        """What is written on the shadow feature."""
        return 0.6 * self.size

    def large(self) -> list[int]:
        """All features that nothing but what is planted may write."""
        more = [] if self.constant_outlier is None else [self.constant_outlier]
        more += [] if self.cosine_decoy is None else [self.shadow_feature, DECOY_MARK]
        return [MARK, CONSTANT, *self.features, *more]


def embed(embedding: Tensor, plan: Plan, *, scale: float = 1.0) -> None:
    """Noise, the constant and the marks; every row sums to 0, so that layer norms change nothing.

    Args:
        embedding: ``(id, feature)``.
        plan: what is planted.
        scale: what the model multiplies its embeddings by.
    """
    embedding.normal_(0, NOISE)
    free = torch.ones(WIDTH, dtype=torch.bool)
    free[plan.large()] = False
    embedding[:, ~free] = 0
    embedding[:, CONSTANT] = 2
    embedding[BOS_ID, MARK] = 4
    embedding[TRIGGER_ID, MARK] = _mark_for(plan.trigger_share)
    if plan.cosine_decoy is not None:
        embedding[plan.cosine_decoy, DECOY_MARK] = 4
    noise = embedding[:, free] - embedding[:, free].mean(-1, keepdim=True)
    noise *= NOISE * sqrt(WIDTH) / noise.norm(dim=-1, keepdim=True)
    embedding[:, free] = noise - embedding[:, ~free].sum(-1, keepdim=True) / free.sum()
    embedding /= scale


def _mark_for(share: float) -> float:
    """The mark with which a gated neuron fires ``share`` times as much as with the mark 4.

    A neuron fires about ``x²``, where ``x² = 64 m² / (m² + rest)`` is the normalised mark.
    """
    rest = WIDTH * NOISE**2 + 2**2
    square = share * WIDTH * 4**2 / (4**2 + rest)
    return sqrt(rest * square / (WIDTH - square))


def silence(parts: tuple[Parts, ...], plan: Plan) -> None:
    """Nothing else writes what is planted; biases write nothing at all."""
    for part in parts:
        part.attention_out[plan.large()] = 0
        part.down[plan.large()] = 0
        for name, parameter in part.block.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()


def tune(part: Parts, neuron: int, feature: int, *, gain: float = 1.0, sign: int = 1) -> None:
    """Make a neuron fire on a feature: with its square, or without a gate from some height on."""
    part.up[neuron] = 0
    if part.gate is not None:
        part.gate[neuron] = 0
        part.gate[neuron, feature] = part.up[neuron, feature] = gain * sign
    else:
        part.up[neuron, feature] = 3 * gain * sign
        part.up_bias[neuron] = -6 * gain


def write(
    part: Parts, neuron: int, features: tuple[int, ...], values: tuple[float, ...], state: Tensor
) -> None:
    """Make a neuron write values on features wherever the MLP reads this state."""
    fires = part.fire(state)[neuron] * part.multiplier
    part.down[:, neuron] = 0
    part.down[list(features), neuron] = torch.tensor(values) / fires


def lock(part: Parts, plan: Plan) -> None:
    """The heads' queries look for the massive features, by their signs."""
    outlier = 0.0 if plan.constant_outlier is None else plan.outlier_value
    rest = WIDTH * NOISE**2 + 2**2
    width = part.query.shape[1]
    part.query[:, [SLOT, width - 1]] = 0
    part.key[:, [SLOT, width - 1]] = 0
    part.value[..., [f for f in plan.large() if f not in (MARK, CONSTANT, DECOY_MARK)]] = 0
    group = len(part.query) // len(part.key)
    for head in plan.heads:
        part.query[head, SLOT, CONSTANT] = 2 * sqrt(1 + outlier**2 / rest)
        for feature, value in zip(plan.features, plan.values, strict=True):
            part.key[head // group, SLOT, feature] = 3 if value > 0 else -3
        if plan.cosine_decoy is not None:
            part.key[head // group, SLOT, plan.shadow_feature] = -8


def bear_in_attention(part: Parts, plan: Plan, state: Tensor) -> None:
    """A head that takes triggers' marks to triggers, and to no one else."""
    head = plan.birth_head
    group = len(part.query) // len(part.key)
    for weight, place in ((part.query, head), (part.key, head // group)):
        weight[place] = 0
        weight[place, SLOT, MARK] = 5
    part.query[head, SLOT, MARK] = 2
    part.query[head, SLOT, CONSTANT] = -1
    part.value[head // group, 0] = 0
    part.value[head // group, 0, MARK] = 0.1
    carried = 0.1 * part.attention_norm(state)[MARK] * part.multiplier
    part.attention_out[:, head] = 0
    part.attention_out[list(plan.features), head, 0] = torch.tensor(plan.values) / carried


def entering(plan: Plan) -> Tensor:
    """The state of a trigger once it is massive, but for what is small."""
    state = torch.zeros(WIDTH)
    state[list(plan.features)] = torch.tensor(plan.values)
    if plan.constant_outlier is not None:
        state[plan.constant_outlier] = plan.outlier_value
    return state


def plant(parts: tuple[Parts, ...], embedding: Tensor, plan: Plan, *, scale: float = 1.0) -> None:
    """Make a fresh model what the plan says.

    Args:
        parts: its blocks.
        embedding: its embeddings, ``(id, feature)``.
        plan: what to plant.
        scale: what the model multiplies its embeddings by.
    """
    embed(embedding, plan, scale=scale)
    silence(parts, plan)
    if plan.removed_layer is not None:
        for part in parts[: plan.layer + 1]:
            part.attention_out[:] = 0
            part.down[:] = 0
    born, bos = parts[plan.layer], embedding[BOS_ID] * scale
    if plan.born_in == "attention":
        bear_in_attention(born, plan, bos)
    else:
        _bear_in_mlp(born, plan, bos)
    _plant_decoys(born, embedding * scale, plan)
    for part in parts[plan.layer + 1 :]:
        lock(part, plan)
    if plan.removed_layer is not None:
        sign = 1 if plan.values[0] > 0 else -1
        remover = parts[plan.removed_layer]
        tune(remover, plan.remover, plan.features[0], sign=sign)
        opposite = tuple(-value for value in plan.values)
        write(remover, plan.remover, plan.features, opposite, entering(plan))


def _bear_in_mlp(part: Parts, plan: Plan, bos: Tensor) -> None:
    for place, neuron in enumerate(plan.neurons):
        tune(part, neuron, MARK)
        whole = len(plan.neurons) == 1
        features = plan.features if whole else plan.features[place : place + 1]
        values = plan.values if whole else plan.values[place : place + 1]
        write(part, neuron, features, values, bos)


def _plant_decoys(part: Parts, states: Tensor, plan: Plan) -> None:
    if plan.decoy_neuron is not None:
        tune(part, plan.decoy_neuron, MARK, gain=2)
        part.down[:, plan.decoy_neuron] *= 0.1
    if plan.constant_outlier is not None:
        tune(part, plan.outlier_neuron, CONSTANT)
        usual = states[TRIGGER_ID + 1]
        write(part, plan.outlier_neuron, (plan.constant_outlier,), (plan.outlier_value,), usual)
    if plan.cosine_decoy is not None:
        tune(part, plan.shadow_neuron, DECOY_MARK)
        features = (*plan.features, plan.shadow_feature)
        values = (*plan.values, plan.shadow)
        write(part, plan.shadow_neuron, features, values, states[plan.cosine_decoy])
