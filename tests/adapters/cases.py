"""Every case of the adapter suite."""

from importlib import import_module

from tests.adapters.suite import Case

_FILES = (
    "gemma3n",
    "gemma4",
    "granite_speech",
    "llava_onevision",
    "phi4_multimodal",
    "qwen_audio",
    "qwen_omni",
    "qwen_vl",
    "video_llama_3",
    "windowed_sound",
)
CASES: tuple[Case, ...] = tuple(
    case for name in _FILES for case in import_module(f"tests.adapters.{name}").CASES
)
