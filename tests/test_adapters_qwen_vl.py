"""Layouts of Qwen's vision models against what a change of one pixel changes."""

import copy
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
from tests.adapters.qwen_vl import FAMILIES, FILMS, IMAGE, PICTURES, VIDEO, inputs, model

PATCH, MERGE = 4, 2
BY_NAME = pytest.mark.parametrize("name", FAMILIES)


def silent(name: str) -> Any:
    """The encoder's attention adds nothing: each square of patches stays by itself."""
    return silenced([block.attn.proj for block in model(name).model.visual.blocks])


def pixels_of(picture: np.ndarray) -> torch.Tensor:
    """What the real image processor makes of a picture: (patch, feature)."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil(
        patch_size=PATCH, temporal_patch_size=2, merge_size=MERGE, do_resize=False
    )
    return processor([picture], return_tensors="pt")["pixel_values"]


def with_pictures(name: str, *pictures: np.ndarray) -> dict[str, Any]:
    return inputs(name) | {"pixel_values": torch.cat([pixels_of(each) for each in pictures])}


def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [
        generator.integers(0, 255, (h * PATCH, w * PATCH, 3), np.uint8)
        for _, h, w in PICTURES.tolist()
    ]


def layout_of(name: str, sample: int, given: dict[str, Any]) -> ss.TokenLayout:
    return next(ss.load(model(name)).batches(given)).layouts[sample]


@BY_NAME
@pytest.mark.parametrize(("item", "y", "x"), [(0, 1, 30), (0, 15, 9), (1, 8, 7)])
def test_a_pixel_touches_the_token_of_its_row_and_column(
    name: str, item: int, y: int, x: int
) -> None:
    before, after = pictures(), pictures()
    after[item][y, x] ^= 128
    given = with_pictures(name, *before)
    side = PATCH * MERGE
    with silent(name):
        changed = touched(model(name), given, with_pictures(name, *after))
    assert changed.sum() == 1
    for sample in range(2):
        expected = covering(
            layout_of(name, sample, given), "image", item=item, row=y // side, column=x // side
        )
        assert np.array_equal(changed[sample], expected)


def film_patches(film: np.ndarray) -> torch.Tensor:
    """A film of (frame, colour, height, width) cut as the video processor does."""
    return torch.from_numpy(
        rearrange(
            film,
            "(t two) c (h i y) (w j x) -> (t h w i j) (c two y x)",
            two=2,
            i=MERGE,
            j=MERGE,
            y=PATCH,
            x=PATCH,
        )
    )


@BY_NAME
@pytest.mark.parametrize(("frame", "y", "x"), [(0, 0, 23), (1, 9, 4), (3, 15, 8)])
def test_a_frame_touches_the_token_of_its_time_row_and_column(
    name: str, frame: int, y: int, x: int
) -> None:
    _, h, w = FILMS[0].tolist()
    film = np.random.default_rng(0).normal(size=(4, 3, h * PATCH, w * PATCH)).astype(np.float32)
    other = film.copy()
    other[frame, :, y, x] += 1
    told = {"fps": 4.0, "frames_indices": np.arange(4), "total_num_frames": 4}
    before = inputs(name) | {"pixel_values_videos": film_patches(film)}
    after = before | {"pixel_values_videos": film_patches(other)}
    with silent(name):
        changed = touched(model(name), before, after)[0]
    layout = layout_of(name, 0, before | {"video_metadata": [told]})
    side = PATCH * MERGE
    assert np.array_equal(
        changed,
        covering(layout, "video", row=y // side, column=x // side, second=frame / 4 + 0.01),
    )
    assert changed.sum() == 1


@BY_NAME
def test_the_encoders_frames_are_in_the_order_of_its_blocks(name: str) -> None:
    before, after = pictures(), pictures()
    y, x = 6, 21
    after[0][y, x] ^= 128
    seen: list[torch.Tensor] = []
    block = model(name).model.visual.blocks[0]
    handle = block.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    given = {key: value for key, value in inputs(name).items() if "video" not in key}
    given["input_ids"] = torch.where(given["input_ids"] == VIDEO, 7, given["input_ids"])
    given["mm_token_type_ids"] = (given["input_ids"] == IMAGE).long()
    given.pop("second_per_grid_ts", None)
    try:
        with torch.no_grad():
            for each in (before, after):
                model(name)(**given | {"pixel_values": torch.cat([pixels_of(one) for one in each])})
    finally:
        handle.remove()
    changed = (seen[0] != seen[1]).any(-1).flatten().numpy()
    frames = composite_of(name).streams["image"].frames
    assert frames is not None
    (tokens,) = frames({"grid_thw": PICTURES}, Given(given, model(name).config))
    assert changed.sum() == 1
    assert np.array_equal(
        changed, (tokens.item == 0) & (tokens.row == y // PATCH) & (tokens.column == x // PATCH)
    )


@BY_NAME
def test_the_encoder_is_a_subject_whose_stream_adds_up(name: str) -> None:
    given = {key: value for key, value in inputs(name).items() if "video" not in key}
    given["input_ids"] = torch.where(given["input_ids"] == VIDEO, 7, given["input_ids"])
    given["mm_token_type_ids"] = (given["input_ids"] == IMAGE).long()
    given.pop("second_per_grid_ts", None)
    subject: Any = ss.load(model(name))
    sites = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    kept = [ss.SegmentAttention(), *(ss.Keep(site) for site in sites)]
    record = ss.record(subject.encoder("image"), given, reducers=kept)
    layout = record.layouts[0]
    assert len(layout) == 32 + 16
    assert set(layout.segments) == {"image"}
    one = record.sample(0)
    made = sum(one[site][0] for site in sites[:-1])
    assert np.abs(made - one["resid_post"][0]).max() < 1e-5 * np.abs(made).max()
    drawn = one["segment_sum"][0].sum(("segment", "key"))
    assert np.abs(drawn - 48).max() < 1e-4


def test_an_encoder_that_runs_twice_is_refused() -> None:
    frames = composite_of("qwen2_vl").streams["image"].frames
    assert frames is not None
    with pytest.raises(InputError, match="give it images alone"):
        frames({"grid_thw": PICTURES}, Given(inputs("qwen2_vl"), model("qwen2_vl").config))


def test_the_pace_of_qwen2_5_vl_is_what_the_forward_is_told() -> None:
    layout = layout_of("qwen2_5_vl", 0, inputs("qwen2_5_vl"))
    seconds = layout.seconds[layout.mask("video")]
    assert seconds.tolist() == [[0.0, 0.5]] * 6 + [[0.5, 1.0]] * 6
    blind = inputs("qwen2_vl")
    assert np.isnan(layout_of("qwen2_vl", 0, blind).seconds).all()


def test_time_stamps_say_when_the_frames_of_qwen3_vl_are() -> None:
    given = inputs("qwen3_vl")
    words = {31: "<0.3 seconds>", 32: "<1.3 seconds>", 82: "<|vision_start|>"}
    tokenizer = SimpleNamespace(
        decode=lambda ids, **_: "".join(words.get(i, f" {i}") for i in ids),
        get_vocab=dict,
        bos_token_id=None,
    )
    known = Given(given, model("qwen3_vl").config, SimpleNamespace(tokenizer=tokenizer))
    layout = layouts_of(composite_of("qwen3_vl"), known, None)[0]
    seconds = layout.seconds[layout.mask("video")]
    assert seconds[:6] == pytest.approx(np.tile([0.05, 1.05], (6, 1)))
    assert seconds[6:] == pytest.approx(np.tile([1.05, 2.05], (6, 1)))
    words[32] = "so"
    assert np.isnan(layouts_of(composite_of("qwen3_vl"), known, None)[0].seconds).all()


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_vl_moe"])
def test_deepstack_is_added_between_blocks_and_only_to_what_was_seen(name: str) -> None:
    given = inputs(name)
    record = ss.record(model(name), given, reducers=[ss.Keep("resid_pre"), ss.Keep("resid_post")])
    with torch.no_grad():
        encoded = model(name).model.get_image_features(
            given["pixel_values"], given["image_grid_thw"], return_dict=True
        )
    one = record.sample(0)
    added = (one["resid_pre"][0, 1] - one["resid_post"][0, 0]).values
    layout = record.layouts[0]
    assert np.abs(added[~layout.mask("image", "video")]).max() == 0
    own = encoded.deepstack_features[0][0].numpy()
    assert added[layout.mask("image")] == pytest.approx(own, abs=1e-4)


def only(name: str, kept: str) -> dict[str, Any]:
    """The forward with its pictures alone, or its films."""
    gone, token, features = {
        "image": (VIDEO, IMAGE, ("pixel_values", "image_grid_thw")),
        "video": (IMAGE, VIDEO, ("pixel_values_videos", "video_grid_thw")),
    }[kept]
    given = {n: v for n, v in inputs(name).items() if n in (*features, "attention_mask")}
    ids = inputs(name)["input_ids"]
    ids = torch.where(ids == gone, 7, ids)
    kinds = torch.where(ids == token, 1 if kept == "image" else 2, 0)
    return given | {"input_ids": ids, "mm_token_type_ids": kinds}


def test_films_are_not_taken_for_pictures_in_calls_of_others() -> None:
    own: Any = model("qwen2_vl")
    pictures, films = only("qwen2_vl", "image"), only("qwen2_vl", "video")
    norms = [ss.Norms("resid_post")]
    with torch.no_grad(), ss.probe(ss.load(own).encoder("image"), norms) as probe:
        own(**pictures)
        with pytest.raises(InputError, match="without pixel_values"):
            own(**films)
        with pytest.raises(InputError, match="without pixel_values"):
            own.model.get_video_features(films["pixel_values_videos"], films["video_grid_thw"])
        own(**pictures)
    assert {segment for one in probe.record.layouts for segment in one.segments} == {"image"}


def test_a_generation_is_not_read_by_the_forward_before_it() -> None:
    own: Any = model("qwen2_vl")
    pictures, films = only("qwen2_vl", "image"), only("qwen2_vl", "video")
    with (
        torch.no_grad(),
        ss.probe(ss.load(own).encoder("video"), [ss.Norms("resid_post")]) as probe,
    ):
        own(**films)
        own.generate(**films, max_new_tokens=1)
        with pytest.raises(InputError, match="without pixel_values_videos"):
            own.generate(**pictures, max_new_tokens=1)
    assert len(probe.record) == 2


def test_the_encoder_of_a_model_without_its_head() -> None:
    own: Any = model("qwen2_vl")
    given = only("qwen2_vl", "image")
    whole, bare = (
        ss.record(ss.load(one).encoder("image"), given, reducers=[ss.Norms("resid_post")])
        for one in (own, own.model)
    )
    assert np.array_equal(whole["norm"].values, bare["norm"].values)


def test_what_deepstack_adds_between_blocks_is_no_mlps() -> None:
    """It enters before a block: that block's parts did not make it."""
    deep = copy.deepcopy(model("qwen3_vl"))
    visual: Any = deep.model.visual
    with torch.no_grad():
        visual.deepstack_merger_list[0].linear_fc2.bias[7] = 5000.0
    massive = ss.find_massive_activations(ss.record(deep, inputs("qwen3_vl")), ratio=50)
    origin = ss.trace_origin(ss.trace(deep, inputs("qwen3_vl"), at=massive))
    births = origin.births.loc[origin.births["feature"] == 7]
    assert len(births)
    assert set(births["layer"]) == {1}
    assert set(births["part"]) == {"between blocks"}
    assert births["share"].between(0.98, 1.02).all()
    assert births["neuron"].isna().all()
    ledger = origin.ledger
    own = ledger.loc[(ledger["layer"] == 1) & (ledger["feature"] == 7) & ledger["is_found"]]
    assert np.allclose(own["between"], 5000, rtol=1e-2)
    assert "before it" in ss.describe(origin.births)
    ss.plots.birth(origin)
