"""What a mapping may hold, what a stream needs, continued caches and repeated samples."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.errors import InputError
from sinkscope.subjects.multimodal.table import Given
from tests.adapters import gemma4, phi4_multimodal, qwen_omni, qwen_vl, windowed_sound

QWEN = "qwen2_5_vl"


@cache
def film() -> dict[str, Any]:
    """One film alone, whose frames of tokens are 0.3 s apart."""
    whole, ids = qwen_vl.inputs(QWEN), torch.tensor([[5, 82, *[92] * 12, 83, 7, 8]])
    return {
        "input_ids": ids,
        "pixel_values_videos": whole["pixel_values_videos"],
        "video_grid_thw": whole["video_grid_thw"],
        "mm_token_type_ids": 2 * (ids == 92).long(),
        "second_per_grid_ts": torch.tensor([0.3]),
    }


def test_only_features_take_the_models_dtype() -> None:
    model: Any = qwen_vl.model.__wrapped__(QWEN).to(torch.bfloat16)
    seen: dict[str, Any] = {}
    hook = model.register_forward_pre_hook(lambda *given: seen.update(given[2]), with_kwargs=True)
    record = ss.record(model, film())
    hook.remove()
    assert seen["pixel_values_videos"].dtype == torch.bfloat16
    assert seen["second_per_grid_ts"].dtype == torch.float32
    steps = record.layouts[0].seconds[2:14]
    assert np.allclose(np.unique(steps[:, 1] - steps[:, 0]), 0.3, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"atention_mask": 0}, r"takes no argument 'atention_mask'.*spelling"),
        ({"use_cache": True}, "holds use_cache, which a recording decides"),
        ({"input_ids": torch.tensor([5, 6])}, r"shape \(2,\); give \(sample, token\)"),
        ({"attention_mask": torch.ones(1, 3).long()}, r"attention_mask has shape \(1, 3\)"),
        ({"attention_mask": torch.ones(2, 17).long()}, r"attention_mask has shape \(2, 17\)"),
        ({"video_grid_thw": None}, "has video but no video_grid_thw"),
        ({"second_per_grid_ts": torch.ones(2)}, "second_per_grid_ts has 2 entries"),
    ],
)
def test_a_mapping_that_is_not_right_is_refused(changed: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        ss.record(qwen_vl.model(QWEN), film() | changed)


def test_side_information_and_lists_are_taken() -> None:
    known = {"video_metadata": [{"fps": 2.0, "frames_indices": list(range(6))}], "length": 17}
    grid = {"video_grid_thw": film()["video_grid_thw"].tolist()}
    told = ss.record(qwen_vl.model(QWEN), film() | known | grid)
    plain = ss.record(qwen_vl.model(QWEN), film())
    assert np.array_equal(told["norm"], plain["norm"])
    arrays = {name: value.numpy() for name, value in film().items() if name != "input_ids"}
    assert np.array_equal(ss.record(qwen_vl.model(QWEN), film() | arrays)["norm"], plain["norm"])


@pytest.mark.parametrize(
    ("model", "inputs", "names"),
    [
        (
            lambda: gemma4.CASES[0].model(),
            lambda: gemma4.CASES[0].inputs(),
            ("image_position_ids", "video_position_ids", "num_frames_per_video"),
        ),
        (
            phi4_multimodal.model,
            phi4_multimodal.inputs,
            ("image_sizes", "image_attention_mask", "audio_embed_sizes"),
        ),
        (
            lambda: qwen_omni.thinker(qwen_omni.QWEN2),
            lambda: qwen_omni.inputs(qwen_omni.QWEN2),
            ("image_grid_thw", "video_grid_thw", "video_second_per_grid"),
        ),
    ],
)
def test_what_a_stream_needs_is_named(model: Any, inputs: Any, names: tuple[str, ...]) -> None:
    for name in names:
        without = {key: value for key, value in inputs().items() if key != name}
        with pytest.raises(InputError, match=f"but no {name}"):
            ss.record(model(), without)


def test_needed_counts_entries() -> None:
    given = Given({"sizes": [1, 2]}, None)
    assert given.needed("sizes", "image", entries=2) == [1, 2]
    with pytest.raises(InputError, match="sizes has 2 entries, but the forward has 3 of image"):
        given.needed("sizes", "image", entries=3)


def second_turn(model: Any) -> tuple[Any, dict[str, Any]]:
    """A cache of three tokens, and what would continue it with a sound of six."""
    with torch.no_grad():
        cache = model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
    ids = torch.tensor([[7, 80, *[windowed_sound.AUDIO_ID] * 6, 81, 7]])
    sound = windowed_sound.inputs("voxtral")["input_features"][:1]
    mask = torch.ones(1, 3 + ids.shape[1]).long()
    return cache, {"input_ids": ids, "attention_mask": mask, "input_features": sound}


def test_a_cache_is_not_continued_with_a_sound() -> None:
    model: Any = windowed_sound.model("voxtral")
    cache, given = second_turn(model)
    with (
        pytest.raises(InputError, match=r"continues a KV cache and brings audio"),
        ss.probe(model),
        torch.no_grad(),
    ):
        model(**given, past_key_values=cache)
    cache, given = second_turn(model)
    ids = torch.cat([torch.tensor([[5, 6, 7]]), given["input_ids"]], dim=1)
    with (
        pytest.raises(InputError, match="continues a KV cache"),
        ss.probe(model),
        torch.no_grad(),
    ):
        model.generate(**given | {"input_ids": ids}, past_key_values=cache, max_new_tokens=2)


def test_samples_that_generate_repeats() -> None:
    model: Any = qwen_vl.model(QWEN)
    several = {"num_return_sequences": 2, "do_sample": True}
    for options in ({"num_beams": 2}, several):
        with (
            pytest.raises(InputError, match=r"makes 2 samples of 1, .* use num_beams=1"),
            ss.probe(model),
            torch.no_grad(),
        ):
            model.generate(**film(), max_new_tokens=2, **options)
    sound: Any = windowed_sound.model("voxtral")
    with ss.probe(sound) as probe, torch.no_grad():
        sound.generate(**windowed_sound.inputs("voxtral"), max_new_tokens=2, **several)
    segments = [layout.segments for layout in probe.record.layouts]
    assert [row.count("audio") for row in segments][::2] == [
        row.count("audio") for row in segments
    ][1::2]
