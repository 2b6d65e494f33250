"""What can be a rate: encoder frames that become one token. Depends on nothing."""

from numbers import Real

__all__ = ["is_rate"]


def is_rate(value: object) -> bool:
    """Whether a value is a whole number of at least 1.

    >>> [is_rate(value) for value in (4, 4.0, 2.5, 0, "4", None, True, float("inf"))]
    [True, True, False, False, False, False, False, False]
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return float(value).is_integer() and float(value) >= 1
