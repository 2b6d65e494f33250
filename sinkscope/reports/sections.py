"""Sections of a report beside the record's own: any tables, figures and sentences, with a heading.

Whoever computed them (a command, a notebook) makes a ``Section`` and hands it to ``write_run``, so
that the report needs to know nothing of how they were made.

Example:
    >>> table = pd.DataFrame({"what": ["loss"], "before": [1.2], "after": [1.3]})
    >>> Section("ablation", "Ablation", ["The loss rose."], {"ablation": table}).meaning
    {}
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from sinkscope.errors import InputError
from sinkscope.reports.figures import RunFigure

__all__ = ["Section", "refuse_clashes"]


@dataclass(frozen=True, eq=False)
class Section:
    """One more section of a run and of its page. Every text in it is escaped there.

    Attributes:
        name: its key in ``run.json``, which holds the sentences.
        title: its heading.
        sentences: what it says, shown first.
        tables: by name: ``tables/<name>.csv``, and folded on the page.
        meaning: what each table holds, in a sentence.
        figures: of ``figures/<name>.png``, also on the page.
    """

    name: str
    title: str
    sentences: Sequence[str]
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    meaning: Mapping[str, str] = field(default_factory=dict)
    figures: Sequence[RunFigure] = ()


def refuse_clashes(sections: Sequence[Section], taken: Mapping[str, Collection[str]]) -> None:
    """Refuse names that would overwrite each other in the run folder.

    Args:
        sections: in the order of the page.
        taken: the names of the run's own ``tables`` and ``figures``, and the keys of ``run``.

    Raises:
        InputError: naming the clash.
    """
    seen = {kind: set(names) for kind, names in taken.items()}
    for section in sections:
        own = {
            "run": [section.name],
            "tables": list(section.tables),
            "figures": [figure.name for figure in section.figures],
        }
        for kind, names in own.items():
            for name in names:
                if name in seen.setdefault(kind, set()):
                    raise InputError(
                        f"write_run: section {section.title!r} brings {name!r}, a name that the "
                        f"run's {kind} have already; choose another."
                    )
                seen[kind].add(name)
