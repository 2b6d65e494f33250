"""Adapter for a ``TransformerBridge`` of transformer-lens 4.

A bridge puts hook points between the modules of a transformers model and computes attention by
itself, so it never passes through transformers' attention interface. What is studied here is the
transformers model inside: its own modules and the very same weights (no copy), without the hook
points. The bridge is not changed. Nothing is imported from transformer-lens: who has a bridge has
loaded it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from sinkscope.errors import CheckpointError, InputError
from sinkscope.subjects.huggingface import HuggingFaceSubject, huggingface_subject
from sinkscope.subjects.running import evaluating

__all__ = ["bridge_subject", "unwrapped"]

PACKAGE = "transformer_lens."
TOLERANCE = 1e-2
"""Largest difference of the logits, relative to their largest, between bridge and inner model."""


def bridge_subject(bridge: nn.Module, *, tokenizer: Any | None = None) -> HuggingFaceSubject:
    """A subject of the model inside a bridge.

    Inside ``sinkscope.probe`` call ``subject.model(...)``; calls of the bridge are not seen.

    Args:
        bridge: a ``TransformerBridge`` as ``boot_transformers`` made it.
        tokenizer: in place of the bridge's own.

    Raises:
        InputError: if hooks of the user's are on the bridge, which the inner model would not run.
        CheckpointError: if the bridge has processed its weights (compatibility mode; not with
            ``no_processing=True``, which only names hooks), or the inner model does not compute
            what the bridge computes.
    """
    if getattr(bridge, "_weights_processed", False):
        raise CheckpointError(
            "The TransformerBridge is in compatibility mode: its weights are folded or centred, "
            "which moves the residual stream and with it massive activations; boot a fresh bridge "
            "with TransformerBridge.boot_transformers and hand that over."
        )
    hooked = [name for name, point in bridge.named_modules() if _has_users_hook(point)]
    if hooked:
        raise InputError(
            f"The TransformerBridge has hooks of yours at {', '.join(hooked[:3])}, which would not "
            "run here; call bridge.reset_hooks(including_permanent=True) first."
        )
    original: Any = getattr(bridge, "original_model", None)
    if not isinstance(original, nn.Module):
        raise CheckpointError(
            f"This {type(bridge).__name__} has no original_model; give one of transformer-lens 4 "
            "that TransformerBridge.boot_transformers made."
        )
    model = unwrapped(original)
    config: Any = model.config
    subject = huggingface_subject(
        model,
        tokenizer=tokenizer or getattr(bridge, "tokenizer", None),
        name=getattr(config, "_name_or_path", "") or None,
    )
    _compare(bridge, subject)
    return subject


def unwrapped(module: nn.Module) -> Any:
    """The same modules with the same weights, without the components of transformer-lens."""
    return _unwrapped(module, {})


def _unwrapped(module: nn.Module, done: dict[int, nn.Module]) -> nn.Module:
    while type(module).__module__.startswith(PACKAGE):
        inner = getattr(module, "original_component", None)
        if not isinstance(inner, nn.Module):
            raise CheckpointError(
                f"The bridge's {type(module).__name__} wraps no module of transformers, so what it "
                "computes cannot be studied; load the transformers model itself."
            )
        module = inner
    if id(module) not in done:
        twin = done[id(module)] = type(module).__new__(type(module))
        vars(twin).update(vars(module))
        for name, registry in vars(module).items():
            if name.endswith("_hooks") or name in ("_parameters", "_buffers", "_modules"):
                vars(twin)[name] = registry.copy()
        for name, child in module._modules.items():
            twin._modules[name] = None if child is None else _unwrapped(child, done)
    return done[id(module)]


def _has_users_hook(point: nn.Module) -> bool:
    """Whether a hook point has hooks other than those that transformer-lens itself puts there."""
    hooks = [getattr(handle, "user_hook", None) for handle in getattr(point, "fwd_hooks", ())]
    return any(not str(getattr(hook, "__module__", "")).startswith(PACKAGE) for hook in hooks)


def _compare(bridge: nn.Module, subject: HuggingFaceSubject) -> None:
    """Refuse a bridge whose logits differ from those of the model inside."""
    ids = torch.arange(8).remainder(int(subject.anatomy.config.vocab_size))[None]
    inputs = next(iter(subject.batches(input_ids=ids)))
    with evaluating(bridge):
        logits: Tensor = bridge(inputs.kwargs["input_ids"], return_type="logits")
    expected = subject.forward(inputs).logits
    difference = float((logits - expected).abs().max() / expected.abs().max())
    if not difference < TOLERANCE:
        raise CheckpointError(
            "The logits of the TransformerBridge and of the model inside differ by "
            f"{difference:.1%} of the largest; load the transformers model itself."
        )
