"""Packed sequences: one call of attention for each chunk; the whole map is block-diagonal."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import sinkscope as ss
from sinkscope.errors import InputError, SiteError
from sinkscope.probes.replay import replay
from tests.full_maps import arriving
from tests.packed_models import AUDIO, GRIDS, PACKED, VISION, WINDOWED, build_packed, packed
from tests.test_encoders_probes import closes
from tests.test_probes_attention import check_sample

MAPS = (ss.SegmentAttention(), ss.RowEntropy(), ss.ArgmaxShare(), ss.PatternBins(4))
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_act", "q", "k", "v")


def recorded(name: str, reducers) -> ss.Record:
    built = packed(name)
    with ss.probe(built.model, reducers) as probe:
        built.run()
    return probe.record


def whole_maps(name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each layer, the map put together from the calls, and which query sees which key."""
    built = packed(name)
    with arriving(built.model) as arrived:
        built.run()
    layers: dict[int, list] = {}
    number, covered, length = 0, 0, len(recorded(name, [ss.Norms("resid_post")]).layouts[0])
    for call in arrived:
        layers.setdefault(number, []).append((covered, call))
        covered += call.query.shape[2]
        if covered == length:
            number, covered = number + 1, 0
    return [_block_diagonal(calls, length) for calls in layers.values()]


def _block_diagonal(calls, length: int) -> tuple[np.ndarray, np.ndarray]:
    heads = calls[0][1].query.shape[1]
    full, seen = np.zeros((heads, length, length)), np.zeros((length, length), bool)
    for start, call in calls:
        own = slice(start, start + call.query.shape[2])
        scores = call.query[0].double() @ call.key[0].double().mT * call.options["scaling"]
        full[:, own, own] = torch.softmax(scores, -1).numpy()
        seen[own, own] = True
    return full, seen


@pytest.mark.parametrize("name", PACKED)
def test_statistics_equal_the_block_diagonal_map(name: str) -> None:
    record, maps = recorded(name, [*MAPS, "pattern"]), whole_maps(name)
    assert len(maps) == len(packed(name).blocks)
    assert len(record.layouts) == 1
    assert not maps[0][1].all(), "one chunk alone tests nothing"
    for layer, (full, seen) in enumerate(maps):
        check_sample(record.sample(0), layer, full, seen, record.layouts[0].segment_index)


@pytest.mark.parametrize("name", PACKED)
def test_key_attention_is_over_the_chunk_alone(name: str) -> None:
    record, maps = recorded(name, [*MAPS, "pattern"]), whole_maps(name)
    alpha = ss.key_attention(record.sample(0))
    for layer, (full, seen) in enumerate(maps):
        expected = full.sum(1) / seen.sum(0)
        assert np.abs(alpha.values[0, layer] - expected).max() < 1e-5
        assert (record["queries"][0, layer].sum("segment").values == seen.sum(0)).all()


@pytest.mark.parametrize("name", PACKED)
def test_outputs_are_the_same_to_the_bit(name: str) -> None:
    built = packed(name)
    before = built.run()
    with ss.probe(built.model, [*ss.DEFAULT, *MAPS[2:], *SITES, "z", "pattern"]):
        during = built.run()
    assert torch.equal(before, during)
    assert torch.equal(before, built.run())


@pytest.mark.parametrize("name", PACKED)
def test_sites_close(name: str) -> None:
    record = recorded(name, [*SITES, "z"])
    for layer, block in enumerate(packed(name).blocks):
        at = {site: record[site][0, layer].values for site in (*SITES, "z")}
        assert closes(at["resid_pre"] + at["attn_out"], at["resid_mid"])
        assert closes(at["resid_mid"] + at["mlp_out"], at["resid_post"])
        assert not closes(at["resid_pre"] + at["mlp_out"], at["resid_mid"])
        if layer:
            assert closes(record["resid_post"][0, layer - 1].values, at["resid_pre"])
        assert closes(linear(_out(block), np.concatenate(list(at["z"]), -1)), at["attn_out"])
        assert closes(linear(_down(block), at["mlp_act"]), at["mlp_out"])


def _out(block) -> nn.Module:
    attention = getattr(block, "self_attn", None) or block.attn
    return getattr(attention, "out_proj", None) or attention.proj


def _down(block) -> nn.Module:
    owner = block.mlp if hasattr(block, "mlp") else block
    names = ("down_proj", "linear_fc2", "fc2")
    return next(getattr(owner, name) for name in names if hasattr(owner, name))


def linear(module: nn.Module, states: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(states)).numpy()


def test_keys_and_values_stand_where_their_tokens_do() -> None:
    """Layer 0 of a packed encoder: its own projection of its own norm of what entered."""
    record = recorded("qwen2_5_omni_audio", ["resid_pre", "v"])
    block = packed("qwen2_5_omni_audio").blocks[0]
    states = linear(block.self_attn_layer_norm, record["resid_pre"][0, 0].values)
    made = linear(block.self_attn.v_proj, states).reshape(len(states), 4, 8).transpose(1, 0, 2)
    assert closes(made, record["v"][0, 0].values)


@pytest.mark.parametrize("name", ["qwen2_5_omni_audio", "qwen2_5_vl_vision"])
def test_a_flash_function_that_is_told_the_chunks_gives_the_same(name: str) -> None:
    """It is called once with all chunks; here another function of that name stands for it."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def flash(module, query, key, value, attention_mask=None, *, scaling, **options):
        ends = options["cu_seq_lens_q"].tolist()
        made = [
            nn.functional.scaled_dot_product_attention(*parts, scale=scaling)
            for parts in (
                [one[:, :, a:b] for one in (query, key, value)] for a, b in pairwise(ends)
            )
        ]
        return torch.cat(made, 2).transpose(1, 2), None

    built, kept = build_packed(name), [*MAPS, "pattern", "q", "k", "v", "z"]
    ALL_ATTENTION_FUNCTIONS["flash_attention_2"] = flash
    try:
        built.model.config._attn_implementation = "flash_attention_2"
        with ss.probe(built.model, kept) as probe:
            built.run()
    finally:
        del ALL_ATTENTION_FUNCTIONS["flash_attention_2"]
    other = recorded(name, kept)
    assert probe.record.provenance["attention_implementation"] == "flash_attention_2"
    for variable in other:
        found, expected = probe.record[variable].values, other[variable].values
        assert np.allclose(found, expected, atol=1e-5, equal_nan=True), variable


def test_packed_keys_that_are_not_the_queries_stay_refused() -> None:
    from sinkscope.probes.attention_calls import chunks_of

    query = torch.zeros(1, 2, 6, 4)
    ends = {"cu_seq_lens_q": torch.tensor([0, 2, 6]), "cu_seq_lens_k": torch.tensor([0, 2, 6])}
    own = ends | {"is_causal": False}
    chunks, left = chunks_of("flash_attention_2", query, query, own)
    assert chunks == [slice(0, 2), slice(2, 6)]
    assert set(left) == {"is_causal"}
    for name, options in (
        ("flash_attention_2", ends),
        ("sdpa", own),
        ("flash_attention_2", own | {"cu_seq_lens_k": torch.tensor([0, 3, 6])}),
        ("flash_attention_2", own | {"cu_seq_lens_q": torch.tensor([0, 2])}),
    ):
        assert chunks_of(name, query, query, options) == (None, options)


@pytest.mark.parametrize("name", ["qwen2_5_omni_vision", "qwen3_asr"])
def test_replaying_a_kept_map_gives_what_streaming_gave(name: str) -> None:
    record = recorded(name, [*MAPS, "pattern"])
    again = replay(record, MAPS)
    for variable in again.dataset.data_vars:
        assert np.allclose(again[variable], record[variable], atol=1e-5), variable


# -- what the tokens are -----------------------------------------------------------------------


@pytest.mark.parametrize("name", VISION)
def test_patches_stand_in_the_order_of_the_blocks(name: str) -> None:
    """Pixels that hold their own place come out of the embedding in the order of the layout."""
    built = build_packed(name)
    embedding = _patch_convolution(built.model)
    with torch.no_grad():
        embedding.weight.zero_()
        embedding.weight[0] = 1 / embedding.weight[0].numel()
        if embedding.bias is not None:
            embedding.bias.zero_()
        for part in (p for n, p in built.model.named_parameters() if n.startswith("pos_embed")):
            part.zero_()
    pixels = built.kwargs.get("pixel_values", built.kwargs.get("hidden_states"))
    places = _processor_order(built.kwargs.get("merge_sizes"))
    code = [1000 * image + 100 * t + 10 * y + x for image, t, y, x in places]
    pixels.copy_(torch.tensor(code, dtype=torch.float32)[:, None].expand_as(pixels))
    with ss.probe(built.model, ["resid_pre"]) as probe:
        built.run()
    layout = probe.record.layouts[0]
    frame, row, column = (layout.descriptors[n] for n in ("frame", "row", "column"))
    image = np.array([label[0] == "1" for label in layout.labels])
    found = probe.record["resid_pre"][0, 0].values[:, 0]
    assert np.allclose(found, 1000 * image + 100 * frame + 10 * row + column, atol=1e-2)
    assert set(zip(layout.segments, image, strict=True)) == {("video", False), ("image", True)}
    assert (name in WINDOWED) == (found.round().astype(int).tolist() != code)


def _patch_convolution(model) -> nn.Module:
    return next(m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))


def _processor_order(merges) -> list[tuple[int, int, int, int]]:
    """As the processors of these models lay patches: squares of those that will be merged."""
    places = []
    for image, (frames, rows, columns) in enumerate(GRIDS.tolist()):
        side = 2 if merges is None else int(merges[image])
        places += [
            (image, t, i * side + y, j * side + x)
            for t in range(frames)
            for i in range(rows // side)
            for j in range(columns // side)
            for y in range(side)
            for x in range(side)
        ]
    return places


@pytest.mark.parametrize("name", AUDIO)
def test_frames_of_packed_clips_have_their_seconds(name: str) -> None:
    """Frames follow one another from 0 to the end of each clip."""
    layout = recorded(name, [ss.Norms("resid_post")]).layouts[0]
    mel = [34, 10] if name == "qwen2_5_omni_audio" else [230, 60]
    second = np.array([label.startswith("1") for label in layout.labels])
    starts, ends = layout.seconds.T
    assert set(layout.segments) == {"audio"}
    for clip, length in zip((~second, second), mel, strict=True):
        assert starts[clip][0] == 0
        assert np.isclose(ends[clip][-1], length / 100)
        assert np.allclose(starts[clip][1:], ends[clip][:-1])
    steps = 2 if name == "qwen2_5_omni_audio" else 8
    assert np.isclose((ends - starts).max(), steps / 100)


# -- what is refused ---------------------------------------------------------------------------


def test_calls_that_do_not_add_up_are_refused() -> None:
    from sinkscope.probes.attention import AttentionCall
    from sinkscope.probes.packed import Chunks

    def call(queries: int, keys: int | None = None, **options) -> AttentionCall:
        query, key = torch.zeros(1, 2, queries, 4), torch.zeros(1, 2, keys or queries, 4)
        given = {"mask": None, "causal": False, "output": query.transpose(1, 2)} | options
        return AttentionCall(query, key, key, scaling=1.0, **given)

    chunks = Chunks(6, "layer 0")
    assert not chunks.add(call(4))
    with pytest.raises(SiteError, match="its 1 calls cover 4 positions, the sequence has 6"):
        chunks.refuse_rest()
    with pytest.raises(SiteError, match="its 2 calls cover 7 positions"):
        chunks.add(call(3))
    with pytest.raises(SiteError, match="one sample whose tokens see one another"):
        Chunks(6, "layer 0").add(call(2, 6))
    with pytest.raises(SiteError, match="with a mask, a window or causal"):
        Chunks(6, "layer 0").add(call(2, causal=True))
    with pytest.raises(SiteError, match="with a mask, a window or causal"):
        Chunks(6, "layer 0").add(call(2, mask=torch.ones(1, 1, 2, 2)))


def test_a_layout_of_other_positions_is_refused() -> None:
    from sinkscope.probes.tracking import announce

    built = packed("qwen3_vl_vision")
    layout = ss.TokenLayout.of(["image"] * 5, ["p"] * 5)
    with ss.probe(built.model, ["resid_post"]) as probe:
        announce(probe.subject.anatomy.decoder, [layout], [None])
        with pytest.raises(InputError, match="the layouts cover 1 of 5"):
            built.run()
        built.run()


def test_a_chunk_with_another_formula_is_refused(monkeypatch) -> None:
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as file

    built = build_packed("qwen2_5_omni_audio")
    built.model.config._attn_implementation = "eager"
    own = file.eager_attention_forward

    def sharper(module, query, key, value, mask, **options):
        return own(module, query * 2, key, value, mask, **options)

    monkeypatch.setattr(file, "eager_attention_forward", sharper)
    with pytest.raises(SiteError, match="chunk 0 of layer 0"), ss.probe(built.model, ["pattern"]):
        built.run()


def test_keeping_the_map_of_a_long_packed_sequence_is_refused_by_its_whole_size() -> None:
    built = packed("qwen3_vl_vision")
    with (
        pytest.raises(SiteError, match="would take"),
        ss.probe(built.model, [ss.Keep("pattern", max_bytes=112 * 112 * 17 * 3 - 1)]),
    ):
        built.run()
