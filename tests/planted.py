"""A Llama whose sinks, massive feature and neuron are known, because they were planted.

Trigger tokens carry a mark. In block ``layer`` one gate neuron fires on the mark and writes one
feature, thousands of times the median. From the next block on, the locked heads' queries look for
that feature: every query attends to the trigger tokens. Everything else is small noise.

Example:
    >>> plant = planted()
    >>> ids = plant.ids(20, sinks=[0, 7])
    >>> plant.model(ids).logits.shape[:2]
    torch.Size([1, 20])
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

MARK, CONSTANT = 0, 1
"""Features of the embedding: the mark of trigger tokens, and one that every token has."""
BOS_ID, TRIGGER_ID = 1, 5
VOCABULARY = 61


@dataclass(frozen=True)
class Planted:
    """What was planted where.

    Attributes:
        model: the Llama.
        layer: the block whose MLP writes the massive feature: ``resid_post[layer]`` has it first.
        neuron: the gate neuron that fires.
        feature: the feature that it writes.
        magnitude: about the value that it writes.
        heads: the heads that lock on it, in every block after ``layer``.
    """

    model: LlamaForCausalLM
    layer: int
    neuron: int
    feature: int
    magnitude: float
    heads: tuple[int, ...]

    @property
    def locked_layers(self) -> tuple[int, ...]:
        """The blocks in which the heads lock."""
        return tuple(range(self.layer + 1, self.model.config.num_hidden_layers))

    def ids(self, tokens: int, *, sinks: Sequence[int] = (0,), seed: int = 0) -> Tensor:
        """Token ids ``(1, token)`` with triggers at ``sinks``: BOS at 0, another id elsewhere."""
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(TRIGGER_ID + 1, VOCABULARY, (1, tokens), generator=generator)
        for place in sinks:
            ids[0, place] = TRIGGER_ID if place else BOS_ID
        return ids


def planted(
    *,
    grouped: bool = True,
    layer: int = 1,
    feature: int = 37,
    neuron: int = 11,
    heads: Sequence[int] = (1, 2, 5),
    magnitude: float = 3000.0,
    seed: int = 0,
) -> Planted:
    """A planted Llama of 5 blocks, 8 heads, width 64; ``grouped``: 4 key-value heads, else 8."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=4 if grouped else 8,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e10},
        bos_token_id=BOS_ID,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        _mark(model, feature)
        _plant_neuron(model.model.layers[layer].mlp, feature, neuron, magnitude)
        for block in model.model.layers[layer + 1 :]:
            _lock(block.self_attn, feature, heads)
    return Planted(model, layer, neuron, feature, magnitude, tuple(heads))


def _mark(model: LlamaForCausalLM, feature: int) -> None:
    embedding = model.model.embed_tokens.weight
    embedding.normal_(0, 0.5)
    embedding[:, [MARK, feature]] = 0
    embedding[:, CONSTANT] = 2
    embedding[[BOS_ID, TRIGGER_ID], MARK] = 4
    for block in model.model.layers:  # nothing else writes what was planted
        for projection in (block.self_attn.o_proj, block.mlp.down_proj):
            projection.weight[[MARK, CONSTANT, feature]] = 0


def _plant_neuron(mlp: torch.nn.Module, feature: int, neuron: int, magnitude: float) -> None:
    """Gate times up is about 28 where the mark is, and 0 elsewhere."""
    for projection in (mlp.gate_proj, mlp.up_proj):
        projection.weight[neuron] = 0
        projection.weight[neuron, MARK] = 1
    mlp.down_proj.weight[feature, neuron] = magnitude / 28


def _lock(attention: torch.nn.Module, feature: int, heads: Sequence[int]) -> None:
    """Queries and keys meet in the slowest pair of the rotary embedding, which does not turn."""
    width = attention.head_dim
    slowest = width // 2 - 1
    group = attention.num_key_value_groups
    attention.q_proj.weight.view(-1, width, 64)[:, [slowest, width - 1]] = 0
    attention.k_proj.weight.view(-1, width, 64)[:, [slowest, width - 1]] = 0
    attention.v_proj.weight[:, feature] = 0
    for head in heads:
        attention.q_proj.weight[head * width + slowest, CONSTANT] = 2
        attention.k_proj.weight[head // group * width + slowest, feature] = 3
