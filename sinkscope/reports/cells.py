"""Tables as texts for a page: short numbers, plain yes and no, nothing for what is missing."""

import numbers
from typing import Any

import pandas as pd

__all__ = ["cell", "columns_of", "rows_of"]

MISSING = "–"


def columns_of(table: pd.DataFrame) -> list[str]:
    """The names of the columns that say something: those missing in every row are left out."""
    return [str(name) for name in table if table.empty or not _empty(table[name])]


def rows_of(table: pd.DataFrame) -> list[list[tuple[str, bool]]]:
    """Each row's cells as text, and whether each is a number."""
    columns = [table[name].tolist() for name in columns_of(table)]
    return [[cell(value) for value in row] for row in zip(*columns, strict=True)]


def cell(value: Any) -> tuple[str, bool]:
    """A value as text, and whether it is a number.

    Example:
        >>> cell(0.123456), cell(True), cell(float("nan")), cell((7, 29))
        (('0.123', True), ('yes', False), ('–', True), ('7, 29', False))
    """
    if isinstance(value, list | tuple):
        return ", ".join(cell(part)[0] for part in value), False
    if isinstance(value, str):
        return value, False
    if value is None or value is pd.NA:
        return MISSING, False
    if isinstance(value, bool):
        return ("yes" if value else "no"), False
    if isinstance(value, numbers.Integral):
        return str(value), True
    if value != value:
        return MISSING, True
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}", True


def _empty(column: Any) -> bool:
    return bool((column.isna() | column.isin([""])).all())
