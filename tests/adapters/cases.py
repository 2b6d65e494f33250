"""Every case of the adapter suite."""

from tests.adapters import llava_onevision, qwen_audio, qwen_omni, qwen_vl
from tests.adapters.suite import Case

CASES: tuple[Case, ...] = (
    *qwen_audio.CASES,
    *qwen_omni.CASES,
    *qwen_vl.CASES,
    *llava_onevision.CASES,
)
