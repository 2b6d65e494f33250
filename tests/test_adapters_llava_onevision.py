"""Layouts of LLaVA-OneVision against what a change of one pixel changes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sinkscope as ss
from sinkscope.analysis.frames import frames_of_tokens
from sinkscope.errors import InputError
from sinkscope.subjects.multimodal.registry import composite_of
from sinkscope.subjects.multimodal.table import Given, StreamTokens
from tests.adapters.llava_onevision import IMAGE, PATCH, SHAPES, SIDE, VIDEO, inputs, model
from tests.adapters.perturb import covering, entrance, silenced, touched

WIDE = (12, 16)
"""Pixels of a picture that two tiles side by side show without scaling, in bars of one patch."""


def silent(whole: nn.Module) -> Any:
    layers = whole.model.vision_tower.encoder.layers
    return silenced([layer.self_attn.out_proj for layer in layers])


def picture(*size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)


def changed_at(own: np.ndarray, y: int, x: int) -> np.ndarray:
    other = own.copy()
    other[y, x] ^= 128
    return other


def given_of(samples: list[list[np.ndarray]], counts: list[int]) -> dict[str, Any]:
    """What the real image processor makes of pictures, with as many placeholders a sample."""
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    side = PATCH * SIDE
    processor = LlavaOnevisionImageProcessorPil(
        size={"height": side, "width": side}, image_grid_pinpoints=SHAPES
    )
    ids = torch.zeros(len(counts), max(counts) + 1, dtype=torch.long)
    for row, count in zip(ids, counts, strict=True):
        row[-count - 1] = 5
        row[-count:] = IMAGE
    made = processor(samples, return_tensors="pt")
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), **made}


def layout_of(whole: nn.Module, given: dict[str, Any], sample: int = 0) -> ss.TokenLayout:
    return next(ss.load(whole).batches(given)).layouts[sample]


@pytest.mark.parametrize(("y", "x"), [(0, 0), (5, 11), (11, 12)])
def test_a_pixel_touches_one_token_of_the_detailed_view_and_its_place_in_the_whole(
    y: int, x: int
) -> None:
    own, count = picture(*WIDE), 9 + 3 * 5
    before = given_of([[own]], [count])
    with silent(model()):
        changed = touched(model(), before, given_of([[changed_at(own, y, x)]], [count]))[0]
    layout = layout_of(model(), before)
    detail = covering(layout, "image", view=1)
    assert np.array_equal(
        changed & detail, covering(layout, "image", view=1, row=y // 4, column=x // 4)
    )
    whole = np.flatnonzero(changed & covering(layout, "image", view=0))
    at = int((x + 0.5) * 12 / 16) // 4
    assert covering(layout, "image", view=0, row=y // 4, column=at)[whole].any()
    assert np.abs(layout.descriptors["column"][whole] - (x + 0.5) * 3 / 16 + 0.5).max() < 1
    assert np.abs(layout.descriptors["row"][whole] - (y + 0.5) / 4 + 0.5).max() < 1


def test_a_token_without_a_place_ends_each_row() -> None:
    layout = layout_of(model(), given_of([[picture(*WIDE)]], [24]))
    row, column = layout.descriptors["row"][1:], layout.descriptors["column"][1:]
    assert row[:9].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert np.isnan(row[9:]).tolist() == [False, False, False, False, True] * 3
    assert column[9:13].tolist() == [0, 1, 2, 3]
    assert layout.descriptors["view"][1:].tolist() == [0] * 9 + [1] * 15


def test_a_view_with_too_many_tokens_is_made_smaller() -> None:
    whole, own = model("anyres_max_1"), picture(12, 24)
    count = 9 + 2 * (4 + 1)
    before = given_of([[own]], [count])
    layout = layout_of(whole, before)
    for patch_row, patch_column in ((0, 0), (2, 2), (0, 5), (2, 3)):
        other = own.copy()
        other[4 * patch_row : 4 * patch_row + 4, 4 * patch_column : 4 * patch_column + 4] ^= 128
        with silent(whole):
            moved = entrance(whole, given_of([[other]], [count])) - entrance(whole, before)
        norm = moved[0].norm(dim=-1).numpy() * covering(layout, "image", view=1)
        most = int(norm.argmax())
        assert layout.descriptors["row"][most] == int((patch_row + 0.5) * 2 / 3)
        assert layout.descriptors["column"][most] == int((patch_column + 0.5) * 4 / 6)


def test_of_several_pictures_each_is_seen_once() -> None:
    pictures = [picture(12, 12), picture(12, 12)]
    before = given_of([pictures], [20])
    after = given_of([[pictures[0], changed_at(pictures[1], 9, 2)]], [20])
    with silent(model()):
        changed = touched(model(), before, after)[0]
    layout = layout_of(model(), before)
    assert np.array_equal(changed, covering(layout, "image", item=1, row=2, column=0))
    assert changed.sum() == 1
    assert np.flatnonzero(np.isnan(layout.descriptors["row"][1:])).tolist() == [9, 19]


@pytest.mark.parametrize(("frame", "y", "x"), [(0, 1, 10), (1, 9, 0), (2, 11, 11)])
def test_a_frame_touches_the_token_of_its_time(frame: int, y: int, x: int) -> None:
    side = PATCH * SIDE
    film = torch.randn(1, 3, 3, side, side, generator=torch.Generator().manual_seed(0))
    other = film.clone()
    other[0, frame, :, y, x] += 1
    ids = torch.tensor([[5, *[VIDEO] * 13, 7]])
    told = {"fps": 2.0, "frames_indices": [0, 4, 8], "total_num_frames": 12}
    before = {"input_ids": ids, "pixel_values_videos": film}
    with silent(model()):
        changed = touched(model(), before, before | {"pixel_values_videos": other})[0]
    layout = layout_of(model(), before | {"video_metadata": [told]})
    assert np.array_equal(
        changed, covering(layout, "video", row=y // 6, column=x // 6, second=2 * frame + 0.1)
    )
    assert changed.sum() == 1
    assert np.isnan(layout.seconds[13]).all()
    assert np.isnan(layout_of(model(), before).seconds).all()


def frames_of(stream: str, given: dict[str, Any]) -> list[StreamTokens]:
    frames = composite_of("llava_onevision").streams[stream].frames
    assert frames is not None
    return list(frames({}, Given(given, model().config)))


def entering(given: dict[str, Any]) -> torch.Tensor:
    """What enters the encoder's first block: (tile, patch, feature)."""
    seen: list[torch.Tensor] = []
    block = model().model.vision_tower.encoder.layers[0]
    handle = block.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    try:
        with torch.no_grad():
            model()(**given)
    finally:
        handle.remove()
    return seen[0]


def test_the_encoders_frames_are_tiles_in_their_order() -> None:
    own, y, x = picture(*WIDE), 6, 13
    before = given_of([[own]], [24])
    after = given_of([[changed_at(own, y, x)]], [24])
    changed = (entering(before) != entering(after)).any(-1).numpy()
    frames = frames_of("image", before)
    assert [len(each) for each in frames] == [9, 9, 9]
    for found, tile in zip(changed[1:], frames[1:], strict=True):
        assert np.array_equal(found, (tile.row == y // 4) & (tile.column == x // 4))
    assert changed[1:].sum() == 1
    assert np.isnan(frames[1].column).tolist() == [True, False, False] * 3
    film = {name: value for name, value in inputs().items() if name != "pixel_values"}
    assert [len(each) for each in frames_of("video", film)] == [9, 9]


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match="vision_aspect_ratio is 'square'"):
        layout_of(model("square"), given_of([[picture(*WIDE)]], [24]))
    with pytest.raises(InputError, match="give it images alone"):
        frames_of("image", inputs())


def test_a_token_of_each_view_is_made_of_the_patches_of_that_view() -> None:
    """A tile shows a part of the picture: how many rows the whole has, all tiles together say."""
    given = given_of([[picture(*WIDE)]], [24])
    subject: Any = ss.load(model())
    layout = layout_of(model(), given)
    frames = ss.record(subject.encoder("image"), given).layouts
    covers = frames_of_tokens(layout, "image", frames, sample=0)
    made = np.array([each.sum(axis=1) for each in covers])
    assert made[:, :9].tolist() == [[1] * 9, [0] * 9, [0] * 9]
    assert made[1:, 9:].sum(axis=0).tolist() == [1, 1, 1, 1, 0] * 3
    assert made[0, 9:].sum() == 0
    second = covers[2][9 + 5 + 3]
    assert frames[2].descriptors["column"][second].tolist() == [3]
    assert frames[2].descriptors["row"][second].tolist() == [1]


@pytest.mark.parametrize(("patch", "token"), [((0, 0), 0), ((2, 2), 5), ((0, 5), 3), ((2, 3), 6)])
def test_a_smaller_view_joins_the_patches_that_lie_under_a_token(
    patch: tuple[int, int], token: int
) -> None:
    """The patches are those that the view's tokens were seen to change most with."""
    whole, given = model("anyres_max_1"), given_of([[picture(12, 24)]], [19])
    subject: Any = ss.load(whole)
    frames = ss.record(subject.encoder("image"), given).layouts
    covers = frames_of_tokens(layout_of(whole, given), "image", frames, sample=0)
    tile, column = 1 + patch[1] // SIDE, patch[1] % SIDE
    found = covers[tile][9:, patch[0] * SIDE + column]
    assert np.flatnonzero(found).tolist() == [token // 4 * 5 + token % 4]
