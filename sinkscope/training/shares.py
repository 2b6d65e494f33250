"""What part of a step a batch is, where a step is several passes over the same samples."""

from dataclasses import dataclass

__all__ = ["PASS", "WHOLE", "Share"]

PASS = "pass"
"""The entry of a batch that says which pass of its step it belongs to, a `Share`."""


@dataclass(frozen=True)
class Share:
    """A batch's share in a step of several passes over the same samples.

    Attributes:
        number: of its pass, from 0.
        of: passes in the step.
        weight: of its cross-entropy.
    """

    number: int = 0
    of: int = 1
    weight: float | int = 1.0


WHOLE = Share()
"""Of a batch in a step of one pass."""
