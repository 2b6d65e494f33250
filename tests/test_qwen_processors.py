"""Clips through Qwen's real processors: what reaches the LLM is where the layout says it is."""

from typing import Any

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.avsr.clip import Clip
from sinkscope.errors import InputError
from tests.adapters import qwen_omni, qwen_processors
from tests.adapters.qwen_omni import QWEN2, QWEN3
from tests.shared_data import shared

BOTH = pytest.mark.parametrize("name", (QWEN2, QWEN3))


@pytest.fixture(scope="module")
def clip() -> Clip:
    return ss.read_clip(shared("grid/bbaf2n.mpg"))


def subject_of(name: str) -> Any:
    pytest.importorskip("torchvision", reason="video processors need torchvision")
    processor = qwen_processors.omni(name)
    return ss.load(qwen_omni.thinker(name, processor), processor=processor)


@BOTH
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_clip(name, clip) -> None:
    subject = subject_of(name)
    for options in ({}, {"audio_in_video": True}, {"streams": ("audio",)}, {"streams": ("video",)}):
        one = subject.with_options(**options)
        record = ss.record(one, clip)
        layout = record.layouts[0]
        print(options, len(layout), "".join(s[0] for s in layout.segments))
        print(
            layout.seconds[layout.mask("audio")][-1:],
            layout.seconds[layout.mask("video")][[0, -1]] if layout.mask("video").any() else "",
        )
        print(record.clips if hasattr(record, "clips") else "", list(layout.descriptors))
    print(clip.waveform.shape, clip.frames.shape)
    assert 0
