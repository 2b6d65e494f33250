"""Sums of the parts of a loss between two lines of the log. Depends on torch.

Example:
    >>> import torch
    >>> meter = Meter()
    >>> for loss in (3.0, 1.0):
    ...     meter.add({"cross_entropy": torch.tensor(loss)}, batches=2, scaled=False)
    >>> {name: float(value) for name, value in meter.read().items()}
    {'cross_entropy': 2.0}
"""

from collections.abc import Mapping

from torch import Tensor

__all__ = ["Meter"]


class Meter:
    """Adds up parts of a loss, batch by batch, and gives their mean over steps."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0.0

    def add(self, parts: Mapping[str, Tensor], *, batches: int, scaled: bool) -> None:
        """Add the parts of one batch.

        Args:
            parts: by name.
            batches: how many make a step.
            scaled: whether the parts of a step's batches sum to the step's; else their mean is it.
        """
        self._steps += 1 / batches
        for name, value in parts.items():
            own = value.detach() / (1 if scaled else batches)
            self._sums[name] = self._sums[name] + own if name in self._sums else own

    def read(self) -> dict[str, Tensor]:
        """The means over the steps since they were last read."""
        means = {name: value / self._steps for name, value in self._sums.items()}
        self._sums, self._steps = {}, 0.0
        return means
