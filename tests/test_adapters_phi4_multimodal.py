"""What Phi-4-multimodal's tokens stand for: by hand, and by what a change of the input moves."""

from typing import Any

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.analysis.frames import frames_of_tokens
from sinkscope.subjects.multimodal.crops import Picture, patches_of, tokens_of
from tests.adapters.perturb import entrance, passed_over
from tests.adapters.phi4_multimodal import (
    CASES,
    CROP,
    PATCH,
    SIDE,
    TOKENS,
    inputs,
    masks,
    model,
)
from tests.adapters.suite import check_logits, check_sites

NAN = float("nan")


def layouts_of(given: dict[str, Any]) -> Any:
    (batch,) = ss.load(model()).batches(given)
    return batch.layouts


def entered(given: dict[str, Any]) -> torch.Tensor:
    parts = model().model.embed_tokens_extend
    blocks = [*parts.image_embed.img_processor.encoder.layers, *parts.audio_embed.encoder.encoders]
    with passed_over(blocks):
        return entrance(model(), given)


def moved(given: dict[str, Any]) -> np.ndarray:
    return (entered(given) - entered(inputs())).norm(dim=-1).numpy()


def test_the_rows_of_a_picture_end_with_a_mark() -> None:
    first, second = layouts_of(inputs())
    here = first.mask("image")
    assert first.descriptors["row"][here].tolist() == pytest.approx(
        [0, 0, 0, NAN, 1, 1, 1, NAN, NAN, 0, 0, NAN, 1, 1, NAN], nan_ok=True
    )
    assert first.descriptors["column"][here].tolist() == pytest.approx(
        [0, 1, 2, NAN, 0, 1, 2, NAN, NAN, 0, 1, NAN, 0, 1, NAN], nan_ok=True
    )
    here = second.mask("image")
    assert second.descriptors["row"][here].tolist() == pytest.approx(
        [0, 0, NAN, 1, 1, NAN, 2, 2, NAN, NAN, 0, 0, NAN, 1, 1, NAN], nan_ok=True
    )
    assert set(second.descriptors["item"][here]) == {1}
    view = second.descriptors["view"][here].tolist()
    assert view == pytest.approx([*[1] * 9, NAN, *[0] * 6], nan_ok=True)


def test_a_sound_token_takes_80_ms() -> None:
    first, second = layouts_of(inputs())
    assert first.seconds[first.mask("audio")].round(3).tolist() == [
        [0, 0.08],
        [0.08, 0.16],
        [0.16, 0.24],
    ]
    here = second.mask("audio")
    assert second.seconds[here][:, 0].round(3).tolist() == [0, 0.08, 0, 0.08, 0.16]
    assert second.descriptors["item"][here].tolist() == [1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("picture", "view", "row", "column"),
    [(0, 1, 0, 2), (0, 1, 1, 1), (1, 1, 2, 0), (1, 1, 0, 1), (0, 0, 0, 0), (1, 0, 1, 0)],
)
def test_what_a_patch_moves_is_its_token(picture: int, view: int, row: int, column: int) -> None:
    """A token joins two by two patches; without blocks between, nothing else hears of them."""
    given = inputs()
    crop, y, x = placed(picture, 2 * row, 2 * column) if view else (0, 8 * row, 8 * column)
    given["image_pixel_values"][picture, crop, :, y : y + PATCH, x : x + PATCH] += 3
    change = moved(given)
    for sample, layout in enumerate(layouts_of(inputs())):
        known = layout.descriptors
        same = layout.mask("image") & (known["item"] == picture) & (known["view"] == view)
        place = (known["row"] == row) & (known["column"] == column)
        assert np.array_equal(change[sample] > 0, same & place)


def placed(picture: int, row: int, column: int) -> tuple[int, int, int]:
    """Crop, and first pixel row and column in it, of a patch; the whole picture is crop 0."""
    across = 2 if picture == 0 else 1
    crop = 1 + (row // SIDE) * across + column // SIDE
    return crop, row % SIDE * PATCH, column % SIDE * PATCH


@pytest.mark.parametrize(("sound", "mel"), [(0, 0), (0, 8), (0, 16), (1, 8), (2, 0)])
def test_what_a_mel_frame_moves_is_where_the_layout_says(sound: int, mel: int) -> None:
    """Three convolutions that go in twos: of every eighth frame only one token hears."""
    given = inputs()
    given["audio_input_features"][sound, mel] += 3
    change = moved(given)
    at = mel * 0.01 + 1e-6
    for sample, layout in enumerate(layouts_of(inputs())):
        start, end = layout.seconds.T
        item = np.where(layout.mask("audio"), layout.descriptors["item"] == sound, False)
        assert np.array_equal(change[sample] > 0, item & (start <= at) & (at < end))


@pytest.mark.parametrize("left_out", ["image", "audio"])
def test_either_stream_may_be_left_out(left_out: str) -> None:
    given = {name: values for name, values in inputs().items() if not name.startswith(left_out)}
    token = 91 if left_out == "image" else 90
    given["input_ids"] = torch.where(given["input_ids"] == token, 5, given["input_ids"])
    for layout, whole in zip(layouts_of(given), layouts_of(inputs()), strict=True):
        other = "audio" if left_out == "image" else "image"
        assert np.array_equal(layout.mask(other), whole.mask(other))
        assert not layout.mask(left_out).any()


def test_the_vision_encoder_runs_over_the_patches_of_every_crop() -> None:
    pictures = [Picture(1, 2, masks()[0].bool().numpy())]
    whole, left, right = patches_of(pictures, crops=3)
    assert (len(whole), len(left), len(right)) == (16, 16, 8)
    views = [np.unique(one.view).tolist() for one in (whole, left, right) if one.view is not None]
    assert views == [[0], [1], [1]]
    assert whole.row[:5].tolist() == [0, 0, 0, 0, 1]
    assert left.column[:5].tolist() == [0, 1, 2, 3, 0]
    assert right.column[:3].tolist() == [4, 5, 4]
    assert right.row[:3].tolist() == [0, 0, 1]


def test_crops_that_fill_up_the_batch_make_no_token() -> None:
    """A picture of one crop beside one of two: its third sample shows nothing."""
    given = {name: value for name, value in inputs().items() if not name.startswith("audio")}
    seen = given["image_attention_mask"].clone()
    seen[0] = 1
    count = len(tokens_of([Picture(1, 1, seen[0].bool().numpy())]))
    ids = torch.tensor([[5, *[91] * count, 6, *[91] * TOKENS[1], 7]])
    given |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    given |= {"image_sizes": torch.tensor([[CROP, CROP], [2 * CROP, CROP]])}
    given |= {"image_attention_mask": seen}
    norms = [ss.Norms("resid_post")]
    subject: Any = ss.load(model())
    (layout,) = ss.record(subject, given, reducers=norms).layouts
    frames = ss.record(subject.encoder("image"), given, reducers=norms).layouts
    covers = frames_of_tokens(layout, "image", frames, sample=0)
    assert [int(one.sum()) for one in covers] == [16, 16, 0, 16, 16, 8]
    assert not covers[2].any()


def test_an_odd_number_of_patches_is_rounded_up() -> None:
    tokens = tokens_of([Picture(1, 1, np.ones((2, 3, 3), bool))])
    assert len(tokens) == 2 * 3 + 1 + 2 * 3


def test_loras_leave_the_sites_where_they_are() -> None:
    from peft import LoraConfig

    targets = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    settings = LoraConfig(r=2, target_modules=rf"model\.layers\.\d+\..*\.({'|'.join(targets)})")
    changed = model()
    changed.add_adapter(settings, "speech")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in changed.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    changed.eval()
    try:
        check_sites(CASES[0])
        check_logits(CASES[0])
    finally:
        model.cache_clear()


def test_sound_that_is_heard_after_a_clips_end_is_appended_silence() -> None:
    record = ss.record(ss.load(model()).encoder("audio"), inputs())
    assert [len(layout) for layout in record.layouts] == [3, 3, 3]
    assert [layout.segments.count("audio") for layout in record.layouts] == [3, 2, 3]
    silent = record.layouts[1]
    assert silent.segments[2] == "appended_silence"
    assert np.isnan(silent.seconds[2]).all()
    assert silent.descriptors["item"].tolist() == [1.0] * 3
