"""Encoders alone and Whisper: two swapped sites, a layout shifted by one, a dropped mask are seen.

The checks are those of the encoders' own tests; each must fail, or refuse, on what is broken here.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest

from sinkscope.errors import SinkscopeError
from sinkscope.layout import TokenLayout
from sinkscope.probes import forward, tracking
from sinkscope.subjects import encoder_layouts, encoders
from sinkscope.subjects.anatomy import Anatomy
from tests import test_encoders_alone as alone
from tests import test_encoders_packed as packed
from tests import test_whisper as whisper
from tests.alone_models import ALONE, IMAGE, MASKED, WAVEFORM
from tests.packed_models import PACKED

Check = Callable[[], None]
SHIFTED: dict[str, Check] = {
    **{name: lambda n=name: alone.test_a_patch_has_its_row_and_column(n) for name in IMAGE},
    **{
        name: lambda n=name: alone.test_frames_of_a_waveform_follow_the_strides(n)
        for name in WAVEFORM
    },
    **{
        name: lambda n=name: alone.test_a_frame_of_pe_covers_its_sound(n)
        for name in ("pe_audio", "pe_audio_video")
    },
    **{
        name: lambda n=name: packed.test_patches_stand_in_the_order_of_the_blocks(n)
        for name in packed.VISION
    },
    **{
        name: lambda n=name: packed.test_frames_of_packed_clips_have_their_seconds(n)
        for name in packed.AUDIO
    },
    "whisper": whisper.test_what_the_tokens_are,
}
"""Of each encoder whose tokens have seconds or places, the check of these."""


def refuted() -> AbstractContextManager[Any]:
    return pytest.raises((AssertionError, SinkscopeError))


@pytest.fixture
def swapped_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = Anatomy._tap, {"attn_out": "mlp_out", "mlp_out": "attn_out"}
    monkeypatch.setattr(
        Anatomy, "_tap", lambda self, site, *rest: own(self, other.get(site, site), *rest)
    )


@pytest.mark.usefixtures("swapped_sites")
@pytest.mark.parametrize("name", ALONE)
def test_swapped_sites_of_an_encoder(name: str) -> None:
    with refuted():
        alone.test_sites_close(name, masked=name in MASKED)


@pytest.mark.usefixtures("swapped_sites")
@pytest.mark.parametrize("name", PACKED)
def test_swapped_sites_of_a_packed_encoder(name: str) -> None:
    with refuted():
        packed.test_sites_close(name)


@pytest.mark.usefixtures("swapped_sites")
def test_swapped_sites_of_whispers_decoder() -> None:
    with refuted():
        whisper.test_three_things_are_added_to_the_stream()


@pytest.mark.parametrize("name", SHIFTED)
def test_a_layout_shifted_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = TokenLayout.__post_init__

    def shifted(layout: TokenLayout) -> None:
        own(layout)
        object.__setattr__(layout, "seconds", np.roll(layout.seconds, 1, axis=0))
        segments = (*layout.segments[-1:], *layout.segments[:-1])
        object.__setattr__(layout, "segments", segments)
        rolled = {key: np.roll(values, 1) for key, values in layout.descriptors.items()}
        object.__setattr__(layout, "descriptors", rolled)

    monkeypatch.setattr(TokenLayout, "__post_init__", shifted)
    with refuted():
        SHIFTED[name]()


@pytest.mark.parametrize("name", MASKED)
def test_a_dropped_mask_of_frames(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (encoder_layouts, encoders, tracking):
        monkeypatch.setattr(room, "frame_mask", lambda *_: None)
    with refuted():
        alone.test_statistics_equal_full_maps(name, masked=True)


@pytest.mark.parametrize("name", PACKED)
def test_dropped_edges_of_chunks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first chunk is taken for the whole sequence."""
    own = forward.Chunks.add

    def early(chunks: forward.Chunks, call: Any) -> bool:
        own(chunks, call)
        chunks.positions = chunks.covered
        return True

    monkeypatch.setattr(forward.Chunks, "add", early)
    with refuted():
        packed.test_statistics_equal_the_block_diagonal_map(name)


def test_dropped_causality_of_whispers_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from sinkscope.probes import attention

    own = attention._call
    monkeypatch.setattr(
        attention, "_call", lambda *args: replace(own(*args), mask=None, causal=False)
    )
    with refuted():
        whisper.test_self_attention_is_causal("sdpa")
