"""The ways to see a model's attention and activations that are compared, on one random Llama.

The job: for each layer and head the attention that each key receives; for each layer the five
largest activations of the residual stream and of the MLP's output, the median magnitude, and the
cosine of every token to the first.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import sinkscope as ss

Way = Callable[[nn.Module, Tensor], Tensor | None]
"""Runs the model on token ids and does its work beside it; hands back the logits."""

JOB = (
    ss.SegmentAttention(),
    ss.TopActivations("resid_post", k=5, per="layer"),
    ss.TopActivations("mlp_out", k=5, per="layer"),
    ss.Median("resid_post"),
    ss.BosSimilarity("resid_post"),
)


def random_llama(*, eager: bool = False) -> LlamaForCausalLM:
    """8 layers of width 512 with 8 heads, 4 key-value heads and an MLP of 1408."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=16384,
        attn_implementation="eager" if eager else "sdpa",
    )
    return LlamaForCausalLM(config).eval()


def plain(model: nn.Module, ids: Tensor) -> Tensor:
    """A forward, and nothing beside it."""
    return model(ids, use_cache=False).logits


def job(model: nn.Module, ids: Tensor) -> Tensor:
    """sinkscope: the job."""
    with ss.probe(model, JOB):
        return model(ids, use_cache=False).logits


def default_record(model: nn.Module, ids: Tensor) -> Tensor:
    """sinkscope: the whole default record."""
    with ss.probe(model):
        return model(ids, use_cache=False).logits


def output_attentions(model: nn.Module, ids: Tensor) -> None:
    """transformers: every map and state is returned, then the job is done on them."""
    output = model(ids, use_cache=False, output_attentions=True, output_hidden_states=True)
    for maps in output.attentions:
        maps.sum(-2)
    for states in output.hidden_states[1:]:
        reduce_states(states)


def eager_hooks(model: nn.Module, ids: Tensor) -> None:
    """transformers, eager: hooks do the job block by block, so that one map lives at a time."""
    handles = []
    for block in model.model.layers:
        attention = block.self_attn.register_forward_hook(lambda _, __, out: _sum_map(out[1]))
        mlp = block.mlp.register_forward_hook(lambda _, __, out: _only(largest(out)))
        stream = block.register_forward_hook(lambda _, __, out: _only(reduce_states(out)))
        handles += [attention, mlp, stream]
    try:
        model(ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


def bridge_hooks(bridge: Any, ids: Tensor) -> None:
    """transformer-lens: hooks of its bridge do the job."""

    def done(states: Tensor, hook: Any) -> None:
        reduce_states(states)

    hooks = []
    for layer in range(8):
        hooks.append((f"blocks.{layer}.attn.hook_pattern", lambda maps, hook: _sum_map(maps)))
        hooks.append((f"blocks.{layer}.hook_resid_post", done))
        hooks.append((f"blocks.{layer}.hook_mlp_out", lambda out, hook: _only(largest(out))))
    bridge.run_with_hooks(ids, fwd_hooks=hooks)


def has_transformer_lens() -> bool:
    """Whether the peer can be run here."""
    return find_spec("transformer_lens") is not None


def bridge_of(model: LlamaForCausalLM, folder: str) -> Any:
    """transformer-lens's bridge around a model; it reads a tokenizer again from ``folder``."""
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(998)} | {"<s>": 998, "</s>": 999}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
    )
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return TransformerBridge.boot_transformers(folder, hf_model=model, tokenizer=tokenizer)


def reduce_states(states: Tensor) -> None:
    """The job on a residual stream, as one would write it."""
    largest(states)
    states.abs().flatten().median()
    torch.nn.functional.cosine_similarity(states, states[:, :1], dim=-1)


def largest(states: Tensor) -> Tensor:
    """The five largest magnitudes."""
    return states.abs().flatten().topk(5).values


def _sum_map(maps: Tensor | None) -> None:
    if maps is not None:
        maps.sum(-2)


def _only(_: Any) -> None:
    """Hooks must return nothing, or they would replace the output."""
