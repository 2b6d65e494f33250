"""The language models that can be the LLM: transformers' own, by the fields of their configuration.

Llama 2, 3, 3.1, 3.2 and TinyLlama are one class (``model_type`` ``"llama"``) and differ by fields:
key-value heads, scaled RoPE, tied embeddings. Qwen2.5 (``"qwen2"``) has biases on q, k and v, and
its tokenizer has no BOS.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from sinkscope.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["FAMILIES", "build_llm", "fit_embeddings"]

FAMILIES = ("llama", "qwen2")
"""The values of ``model_type`` that are built here."""

SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
"""Fields whose defaults would build another model in silence."""


def build_llm(fields: Mapping[str, Any]) -> "PreTrainedModel":
    """A language model with random weights.

    Args:
        fields: of its configuration in transformers; ``model_type`` is ``"llama"`` where it is left
            out.

    Raises:
        CheckpointError: another family, or a size is missing.
    """
    given = dict(fields)
    family = given.pop("model_type", "llama")
    if family not in FAMILIES:
        raise CheckpointError(
            f"llm: model_type is {family!r}; an audio-visual LLM is built on "
            f"{' or '.join(FAMILIES)}."
        )
    missing = [name for name in SIZES if name not in given]
    if missing:
        raise CheckpointError(
            f"llm: {', '.join(missing)} of the {family} configuration is missing; give every size."
        )
    if family == "qwen2":
        from transformers import Qwen2Config, Qwen2ForCausalLM

        return Qwen2ForCausalLM(Qwen2Config(**given))
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**given))


@torch.no_grad()
def fit_embeddings(
    llm: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", *, seed: int = 0
) -> int:
    """Gives the LLM an embedding for every entry of the tokenizer, in place.

    The new rows are drawn from a normal distribution with mean 0 and the configuration's
    ``initializer_range`` as its deviation, which is how Llama-AVSR's delimiters (arXiv 2409.12319)
    begin and, being frozen, stay; here from a generator of their own. First those of the input
    embedding are drawn, then those of the output head, unless the two are tied. An LLM that has
    more embeddings than the tokenizer has entries (Qwen2.5) keeps them.

    Args:
        llm: what is fitted.
        tokenizer: after `sinkscope.avsr.tokens.add_tokens`.
        seed: of the draws.

    Returns:
        How many rows were added.

    Raises:
        InputError: the LLM has no ``initializer_range``.
    """
    before = int(llm.config.vocab_size)
    added = max(0, len(tokenizer) - before)
    if not added:
        return 0
    spread = getattr(llm.config, "initializer_range", None)
    if spread is None:
        raise InputError(
            "The LLM's configuration has no initializer_range; set it, for instance 0.02."
        )
    llm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    draws = torch.Generator().manual_seed(seed)
    tables: dict[int, Any] = {}
    for module in (llm.get_input_embeddings(), llm.get_output_embeddings()):
        if module is not None:
            tables.setdefault(id(module.weight), module.weight)
    for weight in tables.values():
        rows = torch.randn(added, weight.shape[1], generator=draws) * spread
        weight[before:] = rows.to(weight)
    return added
