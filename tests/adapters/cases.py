"""Every case of the adapter suite."""

from tests.adapters import granite_speech, phi4_multimodal, qwen_omni, windowed_sound
from tests.adapters.suite import Case

CASES: tuple[Case, ...] = (
    *granite_speech.CASES,
    *phi4_multimodal.CASES,
    *qwen_omni.CASES,
    *windowed_sound.CASES,
)
