"""Every case of the adapter suite."""

from tests.adapters import (
    granite_speech,
    llava_onevision,
    phi4_multimodal,
    qwen_omni,
    qwen_vl,
    windowed_sound,
)
from tests.adapters.suite import Case

CASES: tuple[Case, ...] = (
    *granite_speech.CASES,
    *llava_onevision.CASES,
    *phi4_multimodal.CASES,
    *qwen_omni.CASES,
    *qwen_vl.CASES,
    *windowed_sound.CASES,
)
