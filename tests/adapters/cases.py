"""Every case of the adapter suite."""

from tests.adapters import qwen_omni, windowed_sound
from tests.adapters.suite import Case

CASES: tuple[Case, ...] = (*qwen_omni.CASES, *windowed_sound.CASES)
