"""Stops a run whose loss or gradient is NaN or infinite. Depends on torch and transformers.

The message says the step, what was not finite, which samples, and which checkpoint is good.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from sinkscope.errors import SinkscopeError

__all__ = ["NotFiniteError", "StopAtNan", "refuse_infinite", "refuse_infinite_weights"]

NAMED = 8
"""Samples that a message names at most."""


class NotFiniteError(SinkscopeError):
    """A loss or a gradient is NaN or infinite."""


def refuse_infinite(
    parts: Mapping[str, Tensor], *, step: int, names: Sequence[str] | None, folder: str | None
) -> None:
    """Refuse a loss of which a part is NaN or infinite.

    Args:
        parts: the parts of the loss, by name.
        step: steps that were finished before.
        names: of the batch's samples, where known.
        folder: of the checkpoints.

    Raises:
        NotFiniteError: if a part is not finite.

    Example:
        >>> refuse_infinite({"cross_entropy": torch.tensor(1.0)}, step=3, names=["a"], folder=None)
    """
    if _finite(part.detach() for part in parts.values()):
        return
    told = ", ".join(f"{name} {float(part.detach()):g}" for name, part in parts.items())
    raise NotFiniteError(
        f"The loss of step {step + 1} is not finite ({told}).{_batch(names)}{_next(folder)}"
    )


def refuse_infinite_weights(model: nn.Module, *, step: int, folder: str | None) -> None:
    """Refuse trained weights that are NaN or infinite, before they become a checkpoint.

    Args:
        model: after a step.
        step: its number, from 1.
        folder: of the checkpoints.

    Raises:
        NotFiniteError: naming the first such weight.

    Example:
        >>> refuse_infinite_weights(nn.Linear(2, 2), step=1, folder=None)
    """
    trained = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    wrong = [name for name, one in trained if not bool(one.detach().isfinite().all())]
    if wrong:
        raise NotFiniteError(
            f"{len(wrong)} weights are not finite after step {step}, first {wrong[0]}."
            f"{_next(folder)}"
        )


class StopAtNan(TrainerCallback):
    """Looks at the gradient before the optimiser uses it."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse a gradient that is not finite; with fp16 the scaler skips such steps itself."""
        if getattr(self._trainer.accelerator, "scaler", None) is not None:
            return
        gradients = [p.grad for p in self._trainer.model.parameters() if p.grad is not None]
        if gradients and not _finite(torch._foreach_norm(gradients)):  # pyright: ignore[reportPrivateImportUsage]
            where = _batch(self._trainer.names_of_step)
            raise NotFiniteError(
                f"The gradient of step {state.global_step + 1} is not finite."
                f"{where}{_next(args.output_dir)}"
            )


def _finite(numbers: Iterable[Tensor]) -> bool:
    """Whether scalars, which may lie on several devices, are finite; waits for them once."""
    found = list(numbers)
    return bool(torch.stack([one.float().to(found[0].device) for one in found]).isfinite().all())


def _batch(names: Sequence[str] | None) -> str:
    if not names:
        return ""
    more = len(names) - NAMED
    listed = ", ".join(map(str, names[:NAMED])) + (f" and {more} more" if more > 0 else "")
    return f" Batch: {listed}."


def _next(folder: str | None) -> str:
    there = folder is not None and Path(folder).is_dir()
    checkpoint = get_last_checkpoint(folder) if there else None
    kept = (
        "No checkpoint was written yet"
        if checkpoint is None
        else f"The last good checkpoint is {checkpoint}"
    )
    return (
        f" {kept}; in a new folder lower the learning rate or the weight, or leave the batch out."
    )
