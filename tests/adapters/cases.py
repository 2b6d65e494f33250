"""Every case of the adapter suite."""

from tests.adapters import gemma3n, gemma4, llava_onevision, qwen_omni, qwen_vl, video_llama_3
from tests.adapters.suite import Case

CASES: tuple[Case, ...] = (
    *qwen_omni.CASES,
    *gemma3n.CASES,
    *gemma4.CASES,
    *qwen_vl.CASES,
    *llava_onevision.CASES,
    *video_llama_3.CASES,
)
