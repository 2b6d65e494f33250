"""Rotations of several axes, norms of queries and keys, packed rows: α is the model's own."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sinkscope as ss
from tests.families import batch, build
from tests.text_families import build_text

TOKENS = 12
MULTIAXIAL = ("qwen2_vl_text", "qwen2_5_omni_text", "qwen3_vl_text", "qwen3_omni_moe_text")


def grid_positions() -> Tensor:
    """Time, row and column of 3 words, a picture of 2 x 3 patches and 3 words."""
    time = [0, 1, 2, *[3] * 6, 6, 7, 8]
    row = [0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7, 8]
    column = [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8]
    return torch.tensor([time, row, column])[:, None]


def maps_of(model: nn.Module, **inputs: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one sample: the probe's maps, its α, and the maps that the model itself returns."""
    with ss.probe(model, [ss.Keep("pattern"), ss.SegmentAttention()]) as probe, torch.no_grad():
        model(**inputs, use_cache=False)
    decoder = model.model
    with torch.no_grad():
        own = decoder(**inputs, output_attentions=True, use_cache=False).attentions
    alpha = ss.key_attention(probe.record)[0].values
    return probe.record["pattern"][0].values, alpha, torch.stack(own)[:, 0].numpy()


@pytest.mark.parametrize("name", MULTIAXIAL)
def test_maps_under_rotations_of_three_axes(name: str) -> None:
    model = build_text(name)
    model.set_attn_implementation("eager")
    ids = batch(samples=1, tokens=TOKENS)["input_ids"]
    found, alpha, own = maps_of(model, input_ids=ids, position_ids=grid_positions())
    assert np.abs(found - own).max() < 1e-5
    assert np.abs(alpha - own.sum(2) / np.arange(TOKENS, 0, -1)).max() < 1e-5
    flat, _, _ = maps_of(model, input_ids=ids)
    assert np.abs(flat - own).max() > 1e-2, "the axes must matter, or this shows nothing"


@pytest.mark.parametrize("family", ["qwen3", "olmo2", "gemma3_text", "cohere"])
def test_maps_under_norms_of_queries_and_keys(family: str) -> None:
    changes = {"use_qk_norm": True} if family == "cohere" else {}
    model = build(family, **changes)
    model.set_attn_implementation("eager")
    ids = batch(samples=1, tokens=TOKENS)["input_ids"]
    found, _, own = maps_of(model, input_ids=ids)
    assert np.abs(found - own).max() < 1e-5
    norms = [name for name, _ in model.named_parameters() if "q_norm" in name]
    assert norms
    with torch.no_grad():
        for name in norms:
            model.get_parameter(name).mul_(0.1)
    other, _, own = maps_of(model, input_ids=ids)
    assert np.abs(other - own).max() < 1e-5
    assert np.abs(other - found).max() > 1e-3


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2_5_omni_text"])
def test_packed_rows_see_their_own_text_only(name: str) -> None:
    model = build_text(name) if name.endswith("_text") else build(name)
    ids = batch(samples=1, tokens=TOKENS)["input_ids"]
    places = torch.cat([torch.arange(7), torch.arange(5)])
    positions = places.expand(4, 1, -1) if name.endswith("_text") else places[None]
    with ss.probe(model, [*ss.DEFAULT, ss.Keep("pattern")]) as probe, torch.no_grad():
        model(input_ids=ids, position_ids=positions, use_cache=False)
    packed = probe.record
    pattern = packed["pattern"][0].values
    assert not pattern[..., 7:, :7].any()
    queries = packed["queries"].sum("segment")[0].values
    assert (queries == [*range(7, 0, -1), *range(5, 0, -1)]).all() or name == "mistral"
    for start, end in ((0, 7), (7, 12)):
        alone = ss.record(model, input_ids=ids[:, start:end], keep=["pattern"])
        assert np.abs(pattern[..., start:end, start:end] - alone["pattern"][0]).max() < 1e-5
        found = ss.key_attention(packed)[0, ..., start:end]
        assert np.allclose(found, ss.key_attention(alone)[0], atol=1e-5)
        assert np.allclose(packed["norm"][0, :, start:end], alone["norm"][0], rtol=1e-4)
