"""A run on one page: tables, figures and a self-contained report that says first what was found.

Example:
    >>> from sinkscope.reports import Thresholds, write_run
    >>> write_run("runs/base", record, thresholds=Thresholds())   # doctest: +SKIP
"""

from sinkscope.analysis.thresholds import Thresholds
from sinkscope.reports.comparison import write_comparison
from sinkscope.reports.rates import write_rates
from sinkscope.reports.run import refuse_existing, write_run
from sinkscope.reports.sections import Section

__all__ = [
    "Section",
    "Thresholds",
    "refuse_existing",
    "write_comparison",
    "write_rates",
    "write_run",
]
