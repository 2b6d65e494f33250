"""Layouts of Gemma 3n against what a change of one pixel or log-mel frame changes."""

from typing import Any

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.errors import InputError
from tests.adapters.gemma3n import PATCH, SOFT_AUDIO, inputs, model
from tests.adapters.perturb import covering, entrance, silenced, touched


def layout_of(given: dict[str, Any], sample: int = 0) -> ss.TokenLayout:
    return next(ss.load(model()).batches(given)).layouts[sample]


def silent() -> Any:
    """Nothing passes between the frames of the sound's encoder."""
    parts = []
    for block in model().model.audio_tower.conformer:
        parts += [block.attention.post, block.lconv1d.linear_end]
    return silenced(parts)


@pytest.mark.parametrize(("y", "x"), [(0, 11), (5, 4), (11, 0)])
def test_a_pixel_touches_the_token_of_its_row_and_column(y: int, x: int) -> None:
    before = inputs()
    pixels = before["pixel_values"].clone()
    pixels[0, :, y, x] += 1
    changed = touched_of(before, before | {"pixel_values": pixels})[0]
    expected = covering(layout_of(before), "image", row=y // PATCH, column=x // PATCH)
    assert np.array_equal(changed, expected)
    assert changed.sum() == 1


@pytest.mark.parametrize(("item", "token"), [(0, 0), (0, 1), (0, 2), (1, 1)])
def test_a_moment_touches_no_token_before_its_seconds(item: int, token: int) -> None:
    """The norms of this encoder count what was before, so that later tokens change too."""
    before = inputs()
    sound = before["input_features"].clone()
    sound[item, 16 * token] += 1
    with silent():
        moved = entrance(model(), before | {"input_features": sound}) - entrance(model(), before)
    norm = moved[0, item].norm(dim=-1).numpy()
    layout = layout_of(before, item)
    own = covering(layout, "audio", item=item, second=0.16 * token + 0.001)
    assert own.sum() == 1
    assert norm.argmax() == np.flatnonzero(own)[0]
    early = layout.mask("audio") & (layout.seconds[:, 1] <= 0.16 * token + 1e-9)
    assert norm[early].max(initial=0) == 0


def test_tokens_that_stand_for_no_sound_have_no_seconds() -> None:
    given = inputs()
    for sample, heard in ((0, 3), (1, 2)):
        layout = layout_of(given, sample)
        seconds = layout.seconds[layout.mask("audio")]
        assert len(seconds) == SOFT_AUDIO
        assert seconds[:heard, 0] == pytest.approx(0.16 * np.arange(heard))
        assert np.isnan(seconds[heard:]).all()
    sound = given["input_features"].clone()
    sound += 1
    changed = touched_of(given, given | {"input_features": sound})
    for sample, heard in ((0, 3), (1, 2)):
        layout = layout_of(given, sample)
        assert np.array_equal(changed[sample][layout.mask("audio")], np.arange(SOFT_AUDIO) < heard)


def touched_of(before: dict[str, Any], after: dict[str, Any]) -> np.ndarray:
    """The streams of AltUp are all made of the first."""
    return touched(model(), before, after)[0]


def test_what_is_not_known_is_refused() -> None:
    given = inputs()
    with pytest.raises(InputError, match="without input_features_mask"):
        layout_of(given | {"input_features_mask": None})
    long = {
        "input_features": torch.zeros(2, 90, 8),
        "input_features_mask": torch.ones(2, 90, dtype=torch.bool),
    }
    with pytest.raises(InputError, match="make 6 tokens each, but Gemma 3n has room for 4"):
        layout_of(given | long)


def test_the_sound_encoder_is_a_subject() -> None:
    """Its frames are 40 ms; of a sound of 20 log-mel frames five are real."""
    encoder = ss.load(model()).encoder("audio")
    record = ss.record(encoder, inputs(), keep=["resid_post"])
    assert [len(layout) for layout in record.layouts] == [12, 5]
    assert np.allclose(record.layouts[1].seconds[-1], [0.16, 0.20])
    seen: list[torch.Tensor] = []
    last: Any = model().model.audio_tower.conformer[-1]
    handle = last.register_forward_hook(lambda *given: seen.append(given[-1]))
    with torch.no_grad():
        model()(**inputs())
    handle.remove()
    for sample, count in enumerate((12, 5)):
        own = record.sample(sample)["resid_post"][0, -1].values
        assert np.allclose(own, seen[0][sample, :count].numpy(), atol=1e-5)
