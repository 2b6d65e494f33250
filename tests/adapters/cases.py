"""Every case of the adapter suite."""

from tests.adapters import qwen_audio, qwen_omni, qwen_vl
from tests.adapters.suite import Case

CASES: tuple[Case, ...] = (*qwen_audio.CASES, *qwen_omni.CASES, *qwen_vl.CASES)
