"""Layouts of Gemma 4 against what a change of one pixel or log-mel frame changes."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.errors import InputError
from sinkscope.subjects.multimodal.layouts import layouts_of
from sinkscope.subjects.multimodal.registry import composite_of
from sinkscope.subjects.multimodal.table import Given
from tests.adapters.gemma4 import PATCH, POOL, UNIFIED, inputs, model
from tests.adapters.perturb import covering, silenced, touched
from tests.adapters.suite import CHECKS, Case

NAMES = ("gemma4", UNIFIED)
BY_NAME = pytest.mark.parametrize("name", NAMES)


def silent(name: str) -> Any:
    """Nothing passes between the frames or patches of an encoder."""
    if name == UNIFIED:
        return silenced([])
    tower = model(name).model
    parts = [layer.self_attn.o_proj for layer in tower.vision_tower.encoder.layers]
    for layer in tower.audio_tower.layers:
        parts += [layer.self_attn.post, layer.lconv1d.linear_end]
    return silenced(parts)


def layout_of(name: str, given: dict[str, Any], sample: int = 0) -> ss.TokenLayout:
    return next(ss.load(model(name)).batches(given)).layouts[sample]


def by_real_processor(picture: np.ndarray) -> dict[str, torch.Tensor]:
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    processor = Gemma4ImageProcessorPil(
        patch_size=PATCH, pooling_kernel_size=POOL, max_soft_tokens=70, do_resize=False
    )
    made = processor([picture], return_tensors="pt")
    return {name: made[name] for name in ("pixel_values", "image_position_ids")}


@pytest.mark.parametrize(("y", "x"), [(0, 11), (5, 4), (7, 0)])
def test_a_pixel_touches_the_token_of_its_row_and_column(y: int, x: int) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (8, 12, 3), np.uint8)
    other = picture.copy()
    other[y, x] ^= 128
    ids = torch.tensor([[1, 82, *[91] * 6, 83, 7]])
    before = {"input_ids": ids, **by_real_processor(picture)}
    with silent("gemma4"):
        changed = touched(model("gemma4"), before, before | by_real_processor(other))[0]
    side = PATCH * POOL
    layout = layout_of("gemma4", before)
    assert np.array_equal(changed, covering(layout, "image", row=y // side, column=x // side))
    assert changed.sum() == 1


@BY_NAME
@pytest.mark.parametrize(("item", "row", "column"), [(0, 1, 2), (0, 0, 1), (1, 1, 0)])
def test_a_patch_touches_the_token_of_its_place(
    name: str, item: int, row: int, column: int
) -> None:
    before = inputs(name)
    pixels, pool = before["pixel_values"].clone(), 1 if name == UNIFIED else POOL
    at = (row * pool) * ((3, 1)[item] * pool) + column * pool
    pixels[item, at, 0] += 0.5
    with silent(name):
        changed = touched(model(name), before, before | {"pixel_values": pixels})
    layout = layout_of(name, before, item)
    expected = covering(layout, "image", item=item, row=row, column=column)
    assert np.array_equal(changed[item], expected)
    assert changed.sum() == 1


@BY_NAME
@pytest.mark.parametrize("frame", [0, 1])
def test_a_frame_touches_the_tokens_of_its_time(name: str, frame: int) -> None:
    before = inputs(name)
    pixels = before["pixel_values_videos"].clone()
    pixels[frame, 0, 0] += 0.5
    told = {"fps": 25.0, "frames_indices": [0, 50], "total_num_frames": 100}
    with silent(name):
        changed = touched(model(name), before, before | {"pixel_values_videos": pixels})[0]
    layout = layout_of(name, before | {"video_metadata": [told]})
    assert np.array_equal(
        changed, covering(layout, "video", row=0, column=0, second=2 * frame + 0.5)
    )
    assert changed.sum() == 1


@BY_NAME
@pytest.mark.parametrize(("item", "token"), [(0, 0), (0, 5), (1, 3)])
def test_a_moment_touches_the_token_of_its_seconds(name: str, item: int, token: int) -> None:
    before = inputs(name)
    sound = before["input_features"].clone()
    sound[item, token * (1 if name == UNIFIED else 4)] += 1
    with silent(name):
        changed = touched(model(name), before, before | {"input_features": sound})
    layout = layout_of(name, before, item)
    expected = covering(layout, "audio", item=item, second=0.04 * token + 0.001)
    assert np.array_equal(changed[item], expected)
    assert changed.sum() == 1


def test_between_two_tokens_the_earlier_one_covers_the_moment() -> None:
    before = inputs("gemma4")
    sound = before["input_features"].clone()
    sound[0, 4 * 5 + 1] += 1
    with silent("gemma4"):
        changed = touched(model("gemma4"), before, before | {"input_features": sound})[0]
    starts = layout_of("gemma4", before).seconds[changed, 0]
    assert starts == pytest.approx([0.2, 0.24])


def test_seconds_are_read_where_they_are_written() -> None:
    given = inputs("gemma4")
    words = {31: "\n01:02 ", 32: " 01:04 ", 82: "<|image>", 83: "<image|>"}
    tokenizer = SimpleNamespace(
        decode=lambda ids, **_: "".join(words.get(i, f" {i}") for i in ids),
        get_vocab=dict,
        bos_token_id=1,
    )
    known = Given(given, model("gemma4").config, SimpleNamespace(tokenizer=tokenizer))
    layout = layouts_of(composite_of("gemma4"), known, None)[0]
    seconds = layout.seconds[layout.mask("video")].tolist()
    assert seconds == [[62.0, 63.0]] * 2 + [[64.0, 65.0]] * 2
    assert layout.segments[0] == "bos"
    plain = layout_of("gemma4", given)
    assert np.isnan(plain.seconds[plain.mask("video")]).all()


def test_what_is_not_known_is_refused() -> None:
    given = inputs("gemma4")
    with pytest.raises(InputError, match="without input_features_mask"):
        layout_of("gemma4", given | {"input_features_mask": None})
    odd = given["image_position_ids"].flip(1)
    with pytest.raises(InputError, match="not a grid of whole squares of 2 by 2"):
        layout_of("gemma4", given | {"image_position_ids": odd})
    with pytest.raises(InputError, match="no image encoder that can be studied alone"):
        ss.load(model("gemma4")).encoder("image")


@pytest.mark.parametrize("check", [name for name in CHECKS if name != "sites"])
def test_embeddings_for_every_layer_change_nothing_of_the_rest(check: str) -> None:
    case = Case("gemma4", lambda: model("gemma4", layered=True), lambda: inputs("gemma4"))
    CHECKS[check](case)


def test_the_sound_encoder_is_a_subject() -> None:
    """It runs over frames of 40 ms, each of which becomes a token with the same seconds."""
    subject, given = ss.load(model("gemma4")), inputs("gemma4")
    heard = ss.record(subject.encoder("audio"), given, keep=["resid_post"])
    whole = ss.record(subject, given)
    frames = np.concatenate([layout.seconds for layout in heard.layouts])
    tokens = np.concatenate([one.seconds[one.mask("audio")] for one in whole.layouts])
    assert np.allclose(frames, tokens)
    assert heard["resid_post"].shape[1] == 2
    with pytest.raises(InputError, match="no audio encoder"):
        ss.load(model("gemma4_unified")).encoder("audio")
