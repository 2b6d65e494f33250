"""Layouts of VideoLLaMA 3 against what a change of one pixel changes."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange

import sinkscope as ss
from sinkscope.errors import InputError
from sinkscope.subjects.multimodal.layouts import layouts_of
from sinkscope.subjects.multimodal.registry import composite_of
from sinkscope.subjects.multimodal.table import Given
from tests.adapters.perturb import covering, silenced, touched
from tests.adapters.video_llama_3 import KEPT, MERGE, PATCH, inputs, model


def silent() -> Any:
    layers = model().model.vision_model.encoder.layers
    return silenced([layer.self_attn.out_proj for layer in layers])


def layout_of(given: dict[str, Any], sample: int = 0) -> ss.TokenLayout:
    return next(ss.load(model()).batches(given)).layouts[sample]


def patches(frames: np.ndarray, merge: int) -> torch.Tensor:
    """Frames of (frame, colour, height, width) cut into squares of patches."""
    return torch.from_numpy(
        rearrange(
            frames,
            "t c (h i y) (w j x) -> (t h w i j) (c y x)",
            i=merge,
            j=merge,
            y=PATCH,
            x=PATCH,
        )
    )


def frames(count: int, rows: int, columns: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.normal(size=(count, 3, rows * PATCH, columns * PATCH)).astype(np.float32)


def with_pictures(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    return inputs() | {"pixel_values": torch.cat([patches(first, 1), patches(second, MERGE)])}


def test_the_squares_are_those_of_the_real_image_processor() -> None:
    from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import (
        VideoLlama3ImageProcessorPil,
    )

    picture = np.random.default_rng(0).integers(0, 255, (16, 24, 3), np.uint8)
    processor = VideoLlama3ImageProcessorPil(
        patch_size=PATCH, merge_size=MERGE, do_resize=False, do_normalize=False, do_rescale=False
    )
    made = processor([picture], return_tensors="pt")
    own = patches(picture.transpose(2, 0, 1)[None].astype(np.float32), MERGE)
    assert torch.equal(made["pixel_values"].float(), own)
    assert made["image_grid_thw"].tolist() == [[1, 4, 6]]


@pytest.mark.parametrize(("item", "y", "x"), [(0, 7, 0), (0, 2, 11), (1, 9, 3)])
def test_a_pixel_touches_the_token_of_its_row_and_column(item: int, y: int, x: int) -> None:
    pictures = [frames(1, 2, 3), frames(1, 4, 4)]
    before = with_pictures(*pictures)
    pictures[item][0, :, y, x] += 1
    with silent():
        changed = touched(model(), before, with_pictures(*pictures))
    side = PATCH * (1, MERGE)[item]
    expected = covering(
        layout_of(before, item), "image", item=item, row=y // side, column=x // side
    )
    assert np.array_equal(changed[item], expected)
    assert changed.sum() == 1


@pytest.mark.parametrize("frame", [0, 1, 2])
@pytest.mark.parametrize(("y", "x"), [(0, 9), (15, 23), (3, 3)])
def test_a_frame_touches_the_token_of_its_time_unless_it_is_left_out(
    frame: int, y: int, x: int
) -> None:
    film = frames(3, 4, 6)
    other = film.copy()
    other[frame, :, y, x] += 1
    told = {"fps": 10.0, "frames_indices": [0, 20, 30], "total_num_frames": 45}
    before = inputs() | {"pixel_values_videos": patches(film, MERGE)}
    with silent():
        changed = touched(model(), before, before | {"pixel_values_videos": patches(other, MERGE)})[
            0
        ]
    layout = layout_of(before | {"video_metadata": [told]})
    row, column, second = y // 8, x // 8, (0.5, 2.5, 4.4)[frame]
    expected = covering(layout, "video", row=row, column=column, second=second)
    assert np.array_equal(changed, expected)
    assert changed.sum() == KEPT[frame * 6 + row * 3 + column]


def test_times_are_read_where_they_are_written() -> None:
    given = inputs()
    words = {31: "Time 0.0s:", 32: ",Time 2.0s:", 33: ",Time 3.0s:"}
    tokenizer = SimpleNamespace(
        decode=lambda ids, **_: "".join(words.get(i, f" {i}") for i in ids),
        get_vocab=dict,
        bos_token_id=None,
    )
    known = Given(given, model().config, SimpleNamespace(tokenizer=tokenizer))
    layout = layouts_of(composite_of("video_llama_3"), known, None)[0]
    seconds = layout.seconds[layout.mask("video")].tolist()
    assert seconds == [[0.0, 2.0]] * 6 + [[2.0, 3.0]] * 3 + [[3.0, 4.5]]
    assert np.isnan(layout_of(given).seconds).all()


def test_the_encoders_frames_are_in_the_order_of_its_blocks() -> None:
    seen: list[torch.Tensor] = []
    block = model().model.vision_model.encoder.layers[0]
    handle = block.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    pictures = [frames(1, 2, 3), frames(1, 4, 4)]
    before = with_pictures(*pictures)
    pictures[1][0, :, 6, 11] += 1
    try:
        for each in (before, with_pictures(*pictures)):
            with torch.no_grad():
                model()(
                    **{name: value for name, value in each.items() if "video" not in name}
                    | {"input_ids": each["input_ids"].where(each["input_ids"] != 92, 7)}
                )
    finally:
        handle.remove()
    changed = (seen[0] != seen[1]).any(-1).flatten().numpy()
    of_images = composite_of("video_llama_3").streams["image"].frames
    assert of_images is not None
    called = {"grid_thw": before["image_grid_thw"], "merge_sizes": before["image_merge_sizes"]}
    without = {name: value for name, value in before.items() if "video" not in name}
    (tokens,) = of_images(called, Given(without, model().config))
    assert np.array_equal(changed, (tokens.item == 1) & (tokens.row == 1) & (tokens.column == 2))
    assert changed.sum() == 1
    with pytest.raises(InputError, match="give it images alone"):
        of_images(called, Given(before, model().config))
