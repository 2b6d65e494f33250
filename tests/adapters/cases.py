"""Every case of the adapter suite."""

from tests.adapters import qwen_omni
from tests.adapters.suite import Case

CASES: tuple[Case, ...] = (*qwen_omni.CASES,)
