"""A further part of a run's report: sentences, figures and tables that a command adds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from sinkscope.reports.figures import RunFigure

__all__ = ["Section"]


@dataclass(frozen=True, eq=False)
class Section:
    """One part, under a heading of its own.

    Attributes:
        name: a short word, for ``run.json``.
        title: the heading.
        sentences: what was found.
        figures: pictures; their files join the run's.
        tables: by name; their files join the run's.
        meaning: what each table holds.
    """

    name: str
    title: str
    sentences: Sequence[str] = ()
    figures: Sequence[RunFigure] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    meaning: Mapping[str, str] = field(default_factory=dict)
