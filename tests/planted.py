"""A Llama whose sinks, massive features and neurons are known, because they were planted.

Trigger tokens carry a mark. In block ``layer`` one gate neuron fires on the mark and writes one
feature, thousands of times the median. From the next block on, the locked heads' queries look for
that feature: every query attends to the trigger tokens. Everything else is small noise. `Plan`
lists what can be varied, and the decoys. Other families: ``tests/planted_variants.py``.

Example:
    >>> plant = planted()
    >>> ids = plant.ids(20, sinks=[0, 7])
    >>> plant.model(ids).logits.shape[:2]
    torch.Size([1, 20])
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from tests.planted_parts import Parts, parts_of
from tests.planted_plan import BOS_ID, CONSTANT, MARK, TRIGGER_ID, VOCABULARY, Plan, plant

__all__ = [
    "BOS_ID",
    "CONSTANT",
    "MARK",
    "SIZES",
    "TRIGGER_ID",
    "VOCABULARY",
    "Plan",
    "Planted",
    "planted",
]

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e10},
    "bos_token_id": BOS_ID,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@dataclass(frozen=True, eq=False)
class Planted:
    """A model and what was planted in it, where.

    Attributes:
        model: the model.
        plan: everything that was planted; the properties are its main entries.
    """

    model: nn.Module
    plan: Plan

    @property
    def layer(self) -> int:
        """The block that writes the massive features: ``resid_post[layer]`` has them first."""
        return self.plan.layer

    @property
    def last_layer(self) -> int:
        """The last block whose ``resid_post`` has them."""
        n_layers = self.model.config.num_hidden_layers
        return (n_layers if self.plan.removed_layer is None else self.plan.removed_layer) - 1

    @property
    def locked_layers(self) -> tuple[int, ...]:
        """The blocks in which the heads lock: those that a massive feature enters."""
        n_layers = self.model.config.num_hidden_layers
        return tuple(range(self.layer + 1, min(self.last_layer + 2, n_layers)))

    @property
    def neuron(self) -> int | None:
        """The neuron (of site ``mlp_act``) that writes; None where attention does."""
        return self.plan.neurons[0] if self.plan.born_in == "mlp" else None

    @property
    def feature(self) -> int:
        """The (first) feature that is written."""
        return self.plan.features[0]

    @property
    def features(self) -> tuple[int, ...]:
        """All features that are written."""
        return self.plan.features

    @property
    def magnitude(self) -> float:
        """About the value of the first one, on BOS."""
        return self.plan.values[0]

    @property
    def heads(self) -> tuple[int, ...]:
        """The heads that lock."""
        return self.plan.heads

    @property
    def blocks(self) -> tuple[Parts, ...]:
        """The weights of every block, under one set of names."""
        return parts_of(self.model)

    def writes(self, layer: int) -> Tensor:
        """What a neuron that is 1 adds to the stream: ``(feature, neuron)``.

        After a post-norm there is no such matrix; then it is what enters that norm.
        """
        block = self.blocks[layer]
        return block.down * block.multiplier

    def ids(
        self,
        tokens: int,
        *,
        sinks: Sequence[int] = (0,),
        decoys: Sequence[int] = (),
        seed: int = 0,
    ) -> Tensor:
        """Token ids ``(1, token)``: at ``sinks`` triggers (BOS at 0, another id elsewhere).

        At ``decoys`` stands the cosine decoy, and nowhere else.
        """
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(TRIGGER_ID + 1, VOCABULARY, (1, tokens), generator=generator)
        decoy = self.plan.cosine_decoy
        if decoy is not None:
            ids[ids == decoy] = TRIGGER_ID + 1 if decoy != TRIGGER_ID + 1 else TRIGGER_ID + 2
        for place in sinks:
            ids[0, place] = TRIGGER_ID if place else BOS_ID
        for place in decoys:
            ids[0, place] = decoy
        return ids


def planted(
    *,
    grouped: bool = True,
    feature: int | None = None,
    neuron: int | None = None,
    magnitude: float | None = None,
    seed: int = 0,
    **plan: Any,
) -> Planted:
    """A planted Llama of 5 blocks, 8 heads, width 64.

    Args:
        grouped: 4 key-value heads, else 8.
        feature: short for one of ``features``; likewise ``neuron`` and ``magnitude``.
        neuron: short for one of ``neurons``.
        magnitude: short for one of ``values``.
        seed: of the noise.
        plan: fields of `Plan`.

    Example:
        >>> plant = planted(features=(37, 12), values=(3000.0, -1500.0), removed_layer=3)
        >>> plant.locked_layers, plant.last_layer
        ((2, 3), 2)
    """
    short = {"features": feature, "neurons": neuron, "values": magnitude}
    plan |= {name: (value,) for name, value in short.items() if value is not None}
    whole = Plan(**{name: _as_tuple(value) for name, value in plan.items()})
    config = LlamaConfig(**SIZES | {"num_key_value_heads": 4 if grouped else 8})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
        plant(parts_of(model), model.model.embed_tokens.weight, whole)
    return Planted(model, whole)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | range) else value
