"""Tables of a report's page in Markdown. Depends on pandas.

>>> print(grid(("task", "error"), [line("ASR", "7.2 %")]))
| task | error |
| --- | --- |
| ASR | 7.2 % |
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

__all__ = ["grid", "line", "records_of"]


def records_of(found: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, each by its columns' names."""
    return [{str(name): value for name, value in one.items()} for one in found.to_dict("records")]


def line(*cells: object) -> str:
    """One line."""
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def grid(head: Sequence[str], rows: Sequence[str]) -> str:
    """Lines from `line` under their head."""
    return "\n".join([line(*head), line(*["---"] * len(head)), *rows])
