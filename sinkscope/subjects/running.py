"""Runs a model without leaving a trace on it, and says what it is."""

import hashlib
import inspect
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from sinkscope.avsr.evaluating import evaluating
from sinkscope.subjects.anatomy import Anatomy
from sinkscope.subjects.expert_sites import expert_settings
from sinkscope.subjects.fused_experts import describe_fused

__all__ = ["describe_model", "evaluating", "fewest_logits", "model_hash"]

HASHED = 16_384
"""Numbers of each weight that enter the hash, evenly spaced."""


def fewest_logits(model: nn.Module) -> dict[str, int | torch.Tensor]:
    """What makes a model compute the logits of the last token only; nothing where it cannot.

    The logits of 4,096 tokens over a vocabulary of 256,000 words would take 4 GB. Some decoders
    (Gemma 4) take a number as leave to run their later blocks on those tokens only; a list of
    places, which they do not, leaves every block whole.
    """
    unwrap = getattr(model, "get_base_model", None)
    base = unwrap() if unwrap else model
    if not _takes(type(base), "logits_to_keep"):
        return {}
    inner = {type(module) for module in base.modules()} - {type(base)}
    skips = any(_takes(kind, "logits_to_keep") for kind in inner)
    return {"logits_to_keep": torch.tensor([-1]) if skips else 1}


def _takes(kind: type[nn.Module], argument: str) -> bool:
    """Whether the forward of a class of modules has an argument of that name."""
    return argument in inspect.signature(kind.forward).parameters


def describe_model(model: nn.Module, anatomy: Anatomy) -> dict[str, Any]:
    """Family, hash, dtype, device, attention, experts and versions, ready for JSON."""
    parameter = next(anatomy.decoder.parameters())
    experts = expert_settings(anatomy.blocks)
    return {
        "family": anatomy.family,
        "model_hash": model_hash(model, anatomy),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": ", ".join(sorted({_place(weight) for weight in model.parameters()})),
        "quantisation": _quantisation(model),
        "attention_implementation": anatomy.attn_implementation,
        "without_attention": {
            str(layer): type(mixer).__name__
            for layer in range(anatomy.n_layers)
            if (mixer := anatomy.mixer(layer)) is not None
        },
        "causal": anatomy.causal,
        "n_layers": anatomy.n_layers,
        "n_heads": anatomy.n_heads,
        "n_kv_heads": anatomy.n_kv_heads,
        "d_model": anatomy.d_model,
        "d_head": anatomy.d_head,
        "mome": None if experts is None else asdict(experts),
        "mixture": describe_fused(anatomy.blocks, anatomy.row, anatomy.config),
        "versions": {name: version(name) for name in ("torch", "transformers", "sinkscope")},
    }


def model_hash(model: nn.Module, anatomy: Anatomy) -> str:
    """A short hash that tells two models apart: a base model and the same model fine-tuned.

    It covers the configuration, the name, shape and dtype of every weight, up to 16,384 evenly
    spaced numbers of each, the settings of mixtures of experts, and whether adapters are switched
    off. Weights that lie on no device (offloaded ones), or in shards on several, count by name,
    shape and dtype only; quantised ones by what they store.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from sinkscope.subjects.anatomy import anatomy_of
        >>> model = LlamaForCausalLM(LlamaConfig(hidden_size=8, intermediate_size=12,
        ...     num_hidden_layers=1, num_attention_heads=2, vocab_size=11))
        >>> before = model_hash(model, anatomy_of(model))
        >>> _ = model.lm_head.weight.data[0, 0].add_(1)
        >>> before == model_hash(model, anatomy_of(model))
        False
    """
    digest = hashlib.blake2b(digest_size=8)
    config = anatomy.config
    digest.update(config.to_json_string().encode() if hasattr(config, "to_json_string") else b"")
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        for part in _plain_parts(weight):
            digest.update(_sampled(part))
    off = [name for name, module in model.named_modules() if _switched_off(module)]
    digest.update(",".join(off).encode())
    experts = expert_settings(anatomy.blocks)
    digest.update(b"" if experts is None else repr(sorted(asdict(experts).items())).encode())
    return digest.hexdigest()


def _place(weight: torch.Tensor) -> str:
    """The device of a weight; "offloaded" where accelerate brings it when it is needed."""
    return "offloaded" if weight.device.type == "meta" else str(weight.device)


def _quantisation(model: nn.Module) -> str | None:
    """How transformers quantised the weights; None where it did not."""
    method = getattr(model, "quantization_method", None)
    return None if method is None else str(getattr(method, "value", method))


def _plain_parts(weight: Any) -> Iterator[torch.Tensor]:
    """The ordinary tensors that a weight holds here: itself, or what a subclass keeps inside."""
    sharded = getattr(weight, "device_mesh", None)
    if weight.device.type == "meta" or not weight.numel() or (sharded and sharded.size() > 1):
        return
    if not is_traceable_wrapper_subclass(weight):
        yield weight
        return
    names, _ = weight.__tensor_flatten__()
    for name in names:
        part = getattr(weight, name)
        if isinstance(part, torch.Tensor):
            yield from _plain_parts(part)


def _sampled(weight: torch.Tensor) -> bytes:
    """Evenly spaced numbers of a weight, as bytes."""
    flat = weight.detach().reshape(-1)[:: max(1, -(-weight.numel() // HASHED))]
    return flat.cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _switched_off(module: nn.Module) -> bool:
    """Whether a PEFT layer's adapters are disabled."""
    return getattr(module, "_disable_adapters", False) is True
