"""How the weight of a loss changes over a run. Depends on nothing.

Example:
    >>> schedule = WeightSchedule(10.0, warmup=0.5)
    >>> [schedule.at(step, steps=4) for step in range(4)]
    [0.0, 5.0, 10.0, 10.0]
"""

from dataclasses import dataclass

from sinkscope.errors import InputError

__all__ = ["WeightSchedule"]


@dataclass(frozen=True)
class WeightSchedule:
    """A weight that rises from 0, stays, and falls to 0 again, each along a straight line.

    Attributes:
        weight: where it stays.
        warmup: share of the steps, from the first, over which it rises.
        decay: share of the steps, up to the last, over which it falls.

    Raises:
        InputError: a negative weight, or shares that are no shares.
    """

    weight: float | int
    warmup: float | int = 0.0
    decay: float | int = 0.0

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise InputError(f"WeightSchedule: the weight is {self.weight}; give 0 or more.")
        if not (0 <= self.warmup <= 1 and 0 <= self.decay <= 1 and self.warmup + self.decay <= 1):
            raise InputError(
                f"WeightSchedule: a warmup of {self.warmup} and a decay of {self.decay} are no "
                "shares of one run; give two numbers from 0 to 1 with a sum of at most 1."
            )

    def at(self, step: int, *, steps: int) -> float:
        """The weight at a step (from 0) of a run of ``steps``."""
        done = step / steps
        rising = done / self.warmup if done < self.warmup else 1.0
        falling = (1 - done) / self.decay if 1 - done < self.decay else 1.0
        return float(self.weight * min(rising, falling))
