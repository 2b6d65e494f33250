"""The encoders inside models that hear, and Phi-4's that sees, as subjects of their own."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sinkscope as ss
from tests.adapters import granite_speech, phi4_multimodal, windowed_sound
from tests.adapters.suite import TOLERANCE

WHOLE = ("resid_mid", "mlp_out")
WITH_MAPS = ("audioflamingo3", "glmasr", "voxtral")
ALL = (*windowed_sound.TEXTS, *granite_speech.NAMES, "phi4_multimodal", "phi4 pictures")


def parts(name: str) -> tuple[Any, dict[str, Any], str]:
    """Model, arguments and stream."""
    if name.startswith("phi4"):
        model, given = phi4_multimodal.model(), phi4_multimodal.inputs()
        return model, given, "image" if name == "phi4 pictures" else "audio"
    if name in granite_speech.NAMES:
        return granite_speech.model(name), granite_speech.inputs(), "audio"
    return windowed_sound.model(name), windowed_sound.inputs(name), "audio"


@cache
def recorded(name: str) -> Any:
    model, given, stream = parts(name)
    encoder = ss.load(model).encoder(stream)
    sites = encoder.anatomy.sites()
    kept = [ss.Keep(site) for site in ("resid_pre", "attn_out", "resid_post", *WHOLE)]
    return ss.record(encoder, given, reducers=[one for one in kept if one.site in sites])


def blocks_of(name: str) -> list[nn.Module]:
    model, _, stream = parts(name)
    return list(ss.load(model).encoder(stream).anatomy.blocks)


@pytest.mark.parametrize("name", ALL)
def test_the_sites_are_those_of_the_encoder(name: str) -> None:
    model, given, _ = parts(name)
    seen: dict[int, torch.Tensor] = {}
    handles = [
        block.register_forward_hook(
            lambda _, __, output, i=i: seen.update({i: as_tensor(output).clone()})
        )
        for i, block in enumerate(blocks_of(name))
    ]
    with torch.no_grad():
        model(**given)
    for handle in handles:
        handle.remove()
    record = recorded(name)
    real: Any = np.arange(500) < np.array([[len(layout)] for layout in record.layouts])
    if name == "phi4 pictures":
        real = phi4_multimodal.masks().bool().reshape(6, -1).numpy()
    for sample, layout in enumerate(record.layouts):
        one = record.sample(sample)
        for layer in range(len(handles)):
            own = seen[layer][sample][real[sample, : seen[layer].shape[1]]].numpy()
            assert len(one["resid_post"][0, layer]) == len(layout)
            assert np.abs(one["resid_post"][0, layer] - own).max() < TOLERANCE * np.abs(own).max()
            if "resid_mid" in one:
                added = one["resid_pre"][0, layer] + one["attn_out"][0, layer]
                assert np.abs(added - one["resid_mid"][0, layer]).max() < 1e-4


def as_tensor(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("name", WITH_MAPS)
def test_the_maps_are_those_of_eager_attention(name: str) -> None:
    model, given, _ = parts(name)
    encoder = ss.load(model).encoder("audio")
    patterns = ss.record(encoder, given, reducers=[ss.Keep("pattern")])
    inner: Any = encoder.anatomy.decoder
    before = inner.config._attn_implementation
    maps: list[torch.Tensor] = []
    handles = [
        one.register_forward_hook(lambda _, __, output: maps.append(output[1]))
        for one in encoder.anatomy.attention
    ]
    inner.set_attn_implementation("eager")
    with torch.no_grad():
        model(**given)
    inner.set_attn_implementation(before)
    for handle in handles:
        handle.remove()
    for sample, layout in enumerate(patterns.layouts):
        found = patterns.sample(sample)["pattern"][0]
        for layer, own in enumerate(maps):
            weights = own[sample, :, : len(layout), : len(layout)].numpy()
            assert np.abs(found[layer] - weights).max() < TOLERANCE


def test_frames_of_windows_take_20_ms_and_go_on_in_the_second() -> None:
    layouts = recorded("audioflamingo3").layouts
    assert [len(layout) for layout in layouts] == [24, 10, 17, 24]
    assert layouts[1].seconds[:2].round(3).tolist() == [[0.48, 0.5], [0.5, 0.52]]
    assert layouts[2].seconds[0].tolist() == [0, 0.02]
    assert [layout.descriptors["item"][0] for layout in layouts] == [0, 0, 1, 2]


@pytest.mark.parametrize("name", ["glmasr", "voxtral"])
def test_an_encoder_without_a_mask_hears_the_padding(name: str) -> None:
    layouts = recorded(name).layouts
    assert [len(layout) for layout in layouts] == [24] * 4
    model, given, _ = parts(name)
    tower = model.model.audio_tower
    louder = given["input_features"].clone()
    louder[1, :, 40:] += 3
    with torch.no_grad():
        plain = tower(given["input_features"]).last_hidden_state
        moved = (tower(louder).last_hidden_state - plain)[1].abs().amax(-1)
    assert moved[0] > 1e-3


def test_phi4s_sound_encoder_hears_the_padding() -> None:
    assert [len(layout) for layout in recorded("phi4_multimodal").layouts] == [3, 3, 3]
    model, given, _ = parts("phi4_multimodal")
    encoder = model.model.embed_tokens_extend.audio_embed.encoder
    louder, mask = given["audio_input_features"].clone(), given["audio_attention_mask"]
    louder[1, 17:] += 5
    with torch.no_grad():
        moved = encoder(louder, mask) - encoder(given["audio_input_features"], mask)
    assert moved[1, 0].abs().max() > 1e-3


def test_a_long_sound_runs_in_pieces_of_500_frames() -> None:
    model = phi4_multimodal.model()
    features = torch.randn(1, 8 * 510, 16, generator=torch.Generator().manual_seed(2))
    ids = torch.tensor([[5, *[90] * 510, 6]])
    long = {
        "input_ids": ids,
        "audio_input_features": features,
        "audio_embed_sizes": torch.tensor([510]),
    }
    encoder = ss.load(model).encoder("audio")
    record = ss.record(encoder, long, reducers=[ss.Keep("resid_post")])
    assert [len(layout) for layout in record.layouts] == [500, 500]
    assert record.layouts[1].seconds[0].tolist() == pytest.approx([40, 40.08])


def test_phi4s_crops_are_placed_in_the_picture() -> None:
    whole, left, right, *_ = recorded("phi4 pictures").layouts
    assert [set(one.descriptors["view"]) for one in (whole, left, right)] == [{0}, {1}, {1}]
    assert right.descriptors["column"][:2].tolist() == [4, 5]
    assert len(right) == 8


@pytest.mark.parametrize("padded", [True, False])
def test_phi4s_picture_encoder_is_causal_where_nothing_is_padded(padded: bool) -> None:
    """transformers 5.23, sdpa: its attention calls itself causal, which counts without a mask."""
    model, given, _ = parts("phi4 pictures")
    if not padded:
        given["image_attention_mask"] = torch.ones_like(given["image_attention_mask"])
        counts = (2 * 5 + 1 + 6, 4 * 3 + 1 + 6)
        first = [5, *[91] * counts[0], 90, 90, 90]
        second = [6, *[91] * counts[1], *[90] * 5]
        ids = torch.zeros(2, max(len(first), len(second)), dtype=torch.long)
        ids[0, -len(first) :], ids[1, -len(second) :] = torch.tensor(first), torch.tensor(second)
        given |= {"input_ids": ids, "attention_mask": (ids != 0).long()}
    encoder = ss.load(model).encoder("image")
    record = ss.record(encoder, given, reducers=[ss.Keep("pattern")])
    pattern = record.sample(0)["pattern"][0].values
    assert np.allclose(pattern.sum(-1), 1, atol=1e-5)
    assert (np.triu(pattern, 1).max() > 0) == padded
