"""Every case of the adapter suite: each file of rows has one of cases, of the same name."""

from importlib import import_module

from sinkscope.subjects.multimodal.registry import ROWS
from tests.adapters.suite import Case

CASES: tuple[Case, ...] = tuple(
    case for name in ROWS for case in import_module(f"tests.adapters.{name}").CASES
)
