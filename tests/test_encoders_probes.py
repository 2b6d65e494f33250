"""Probes on encoders: every real frame sees every real frame, sites close, outputs stay."""

import numpy as np
import pytest
import torch
from torch import nn

import sinkscope as ss
from sinkscope.errors import InputError, SiteError
from sinkscope.probes.replay import replay
from sinkscope.probes.tracking import announce
from tests.encoder_models import (
    ENCODERS,
    FRAMES,
    MASKED,
    POST_NORM,
    PRE_NORM,
    build_encoder,
    encoder,
    real_frames,
)
from tests.full_maps import arriving
from tests.test_probes_attention import check_sample

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
"""What torch says of WavLM's own call, with a mask."""

MAPS = (ss.SegmentAttention(), ss.RowEntropy(), ss.ArgmaxShare(), ss.PatternBins(4))
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_act", "q", "k", "v")
CASES = [*((name, False) for name in ENCODERS), *((name, True) for name in MASKED)]


def probed(built, padding: bool, reducers) -> ss.Record:
    mask = real_frames(padding)
    with ss.probe(built.model, reducers) as probe, torch.no_grad():
        built.run(mask)
    return probe.record


def full_map(query, key, *, scaling: float, bias=None) -> np.ndarray:
    """The whole map in float32, ``[head, query, key]``, of frames that all see each other."""
    scores = torch.einsum("hqd,hkd->hqk", query.float(), key.float()) * scaling
    scores = scores if bias is None else scores + bias
    return torch.softmax(scores, -1).double().numpy()


def check_maps(record: ss.Record, sample: int, layer: int, full: np.ndarray) -> None:
    layout = record.layouts[sample]
    seen = np.ones((len(layout), len(layout)), bool)
    check_sample(record.sample(sample), layer, full, seen, layout.segment_index)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("padding", [False, True])
def test_avhubert_statistics_equal_full_maps(implementation: str, padding: bool) -> None:
    built = build_encoder("avhubert")
    built.model.set_attention(implementation)
    record = probed(built, padding, [*MAPS, "pattern", "q", "k"])
    assert record.provenance["attention_implementation"] == implementation
    for sample in range(3):
        one = record.sample(sample)
        for layer in range(2):
            query, key = (torch.from_numpy(one[s][0, layer].values) for s in ("q", "k"))
            check_maps(record, sample, layer, full_map(query, key, scaling=8**-0.5))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_whisper_statistics_equal_full_maps(implementation: str) -> None:
    built = build_encoder("whisper")
    built.model.set_attn_implementation(implementation)
    with arriving(built.model) as arrived:
        record = probed(built, False, [*MAPS, "pattern"])
    for sample in range(3):
        for layer, call in enumerate(arrived):
            full = full_map(call.query[sample], call.key[sample], scaling=1.0)
            check_maps(record, sample, layer, full)


def test_whisper_in_bfloat16() -> None:
    built = build_encoder("whisper")
    built.model.to(torch.bfloat16)
    bands = torch.randn(1, 20, 2 * FRAMES).to(torch.bfloat16)
    with ss.probe(built.model, [*MAPS, "pattern", "q", "k"]) as probe, torch.no_grad():
        built.model(bands)
    for layer in range(2):
        query, key = (torch.from_numpy(probe.record[s][0, layer].values) for s in ("q", "k"))
        check_maps(probe.record, 0, layer, full_map(query, key, scaling=1.0))


def test_a_long_window_goes_through_many_blocks() -> None:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    sizes = {"d_model": 16, "encoder_layers": 1, "encoder_ffn_dim": 16, "num_mel_bins": 4}
    config = WhisperConfig(**sizes, encoder_attention_heads=2, max_source_positions=700)
    model = WhisperEncoder(config).eval()
    with torch.no_grad():
        model.layers[0].self_attn.q_proj.weight.normal_()
        model.layers[0].self_attn.k_proj.weight.normal_()
    with arriving(model) as arrived, ss.probe(model, [*MAPS, "pattern"]) as probe, torch.no_grad():
        model(torch.randn(1, 4, 1400))
    full = full_map(arrived[0].query[0], arrived[0].key[0], scaling=1.0)
    check_maps(probe.record, 0, 0, full)


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("name", ["wavlm", "wavlm post-norm"])
def test_wavlm_statistics_equal_its_own_weights(name: str, padding: bool) -> None:
    """WavLM hands out its weights averaged over heads: ours must have that mean."""
    built, own = encoder(name), []
    hooks = [
        block.attention.register_forward_hook(lambda _, __, out: own.append(out[1][:, 0]))
        for block in built.blocks
    ]
    record = probed(built, padding, [*MAPS, "pattern"])
    for hook in hooks:
        hook.remove()
    for sample in range(3):
        length = len(record.layouts[sample])
        assert length == FRAMES - 4 * sample * padding
        maps = record.sample(sample)["pattern"][0].values.astype(np.float64)
        for layer, weights in enumerate(own):
            mean = weights[sample, :length, :length].numpy()
            assert np.abs(maps[layer].mean(0) - mean).max() < 1e-5
            check_maps(record, sample, layer, maps[layer])


@pytest.mark.parametrize(("name", "padding"), CASES)
def test_key_attention_divides_by_the_real_queries(name: str, padding: bool) -> None:
    record = probed(encoder(name), padding, [*MAPS, "pattern"])
    for sample, layout in enumerate(record.layouts):
        one = record.sample(sample)
        assert (one["queries"].sum("segment") == len(layout)).all()
        alpha = ss.key_attention(one)
        assert np.abs(alpha - one["pattern"].mean("query")).max() < 1e-5
        assert np.allclose(alpha.sum("key"), 1, atol=1e-4)


@pytest.mark.parametrize(("name", "padding"), CASES)
def test_outputs_are_the_same_to_the_bit(name: str, padding: bool) -> None:
    built, mask = encoder(name), real_frames(padding)
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in built.model.modules())
    own = [dict(vars(module)) for module in built.model.modules()]
    with torch.no_grad():
        before = built.run(mask)
        with ss.probe(built.model, [*ss.DEFAULT, *MAPS[2:], *SITES, "z", "pattern"]):
            during = built.run(mask)
        after = built.run(mask)
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    left = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in built.model.modules())
    assert left == hooks
    assert [set(vars(module)) for module in built.model.modules()] == [set(one) for one in own]


def closes(left: np.ndarray, right: np.ndarray) -> bool:
    return bool(np.abs(left - right).max() <= 1e-5 * max(1.0, np.abs(right).max()))


@pytest.mark.parametrize(("name", "padding"), CASES)
def test_sites_close(name: str, padding: bool) -> None:
    """What a block adds makes its stream, before the norms of a post-norm block are undone."""
    built = encoder(name)
    record = probed(built, padding, SITES)
    for sample in range(3):
        one = record.sample(sample)
        for layer in range(len(built.blocks)):
            at = {site: one[site][0, layer].values for site in SITES}
            attended, made = at["resid_pre"] + at["attn_out"], at["resid_mid"] + at["mlp_out"]
            if name in POST_NORM:
                first, second = built.norms(layer)
                attended, made = normed(first, attended), normed(second, made)
            assert closes(attended, at["resid_mid"])
            assert closes(made, at["resid_post"])
            if layer:
                assert closes(one["resid_post"][0, layer - 1].values, at["resid_pre"])


def normed(norm: nn.Module, states: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return norm(torch.from_numpy(states)).numpy()


@pytest.mark.parametrize("name", PRE_NORM)
@pytest.mark.parametrize(
    "swap", [("attn_out", "mlp_out"), ("resid_pre", "resid_mid"), ("resid_mid", "resid_post")]
)
def test_swapped_sites_do_not_close(name: str, swap: tuple[str, str]) -> None:
    record = probed(encoder(name), False, SITES)
    at = {site: record[site][0, 1].values for site in SITES}
    at[swap[0]], at[swap[1]] = at[swap[1]], at[swap[0]]
    first = closes(at["resid_pre"] + at["attn_out"], at["resid_mid"])
    assert not (first and closes(at["resid_mid"] + at["mlp_out"], at["resid_post"]))


@pytest.mark.parametrize("name", ENCODERS)
def test_sites_inside_a_block_give_what_it_adds(name: str) -> None:
    """``mlp_act`` goes through the down projection to ``mlp_out``, ``z`` to ``attn_out``."""
    built = encoder(name)
    record = probed(built, False, [*SITES, "z"])
    for layer, block in enumerate(built.blocks):
        wavlm = hasattr(block, "feed_forward")
        down = block.feed_forward.output_dense if wavlm else block.fc2
        out = (block.attention if wavlm else block.self_attn).out_proj
        with torch.no_grad():
            added = down(torch.from_numpy(record["mlp_act"][0, layer].values))
            z = torch.from_numpy(record["z"][0, layer].values).transpose(0, 1).flatten(1)
            gathered = out(z)
        assert closes(added.numpy(), record["mlp_out"][0, layer].values)
        assert closes(gathered.numpy(), record["attn_out"][0, layer].values)


@pytest.mark.parametrize("name", ENCODERS)
def test_replaying_a_kept_map_gives_what_streaming_gave(name: str) -> None:
    record = probed(encoder(name), False, [*MAPS, "pattern"])
    again = replay(record, MAPS)
    for variable in again.dataset.data_vars:
        assert np.allclose(again[variable], record[variable], atol=1e-5), variable


@pytest.mark.parametrize("name", ["avhubert", "avhubert post-norm"])
def test_padding_that_is_not_masked_is_refused(name: str) -> None:
    built = encoder(name)
    layouts = [
        ss.TokenLayout.of(["audio"] * (FRAMES - 4 * i) + ["padding"] * 4 * i, ["f"] * FRAMES)
        for i in range(3)
    ]
    with pytest.raises(InputError, match="position 20 is padding in the layout, but other"):
        run_announced(built, layouts)


def run_announced(built, layouts: list[ss.TokenLayout]) -> None:
    """A forward without a mask, of which a caller says what its positions are."""
    with ss.probe(built.model) as probe, torch.no_grad():
        announce(probe.subject.anatomy.decoder, layouts, [None] * len(layouts))
        built.run(None)


def test_layouts_of_another_length_are_refused() -> None:
    built = encoder("avhubert")
    layout = ss.TokenLayout.of(["audio"] * (FRAMES + 1), ["f"] * (FRAMES + 1))
    with pytest.raises(InputError, match="3 samples of 24 positions, the layouts cover"):
        run_announced(built, [layout] * 3)


def test_a_wavlm_of_another_formula_is_refused(monkeypatch) -> None:
    from torch.nn import functional

    built, own = build_encoder("wavlm"), functional.multi_head_attention_forward

    def sharper(query, *rest, **options):
        return own(query, *rest, **(options | {"attn_mask": 2 * options["attn_mask"]}))

    monkeypatch.setattr(functional, "multi_head_attention_forward", sharper)
    with pytest.raises(SiteError, match="WavLM's attention gives another output"):
        probed(built, False, ["pattern"])
    with torch.no_grad():
        built.run(None)
    assert len(probed(built, False, ["resid_post"])) == 3


def test_probes_of_one_wavlm_stack_and_leave_in_any_order() -> None:
    built = build_encoder("wavlm")
    first, second = ss.probe(built.model, ["pattern"]), ss.probe(built.model, ["pattern"])
    first.__enter__()
    second.__enter__()
    with torch.no_grad():
        built.run(None)
        first.__exit__(None, None, None)
        built.run(None)
    second.__exit__(None, None, None)
    assert (len(first.record), len(second.record)) == (3, 6)
    attention = built.blocks[0].attention
    assert "torch_multi_head_self_attention" not in vars(attention)


def test_a_mask_of_one_row_holds_for_every_query() -> None:
    """Key padding may arrive as (sample, 1, 1, key), and a sample's tokens not at the left."""
    from sinkscope.probes.attention import AttentionCall
    from sinkscope.probes.forward import attention_map
    from sinkscope.probes.stitching import Part

    query, key = (torch.randn(1, 2, 8, 4) for _ in range(2))
    mask = torch.ones(1, 1, 1, 8, dtype=torch.bool)
    mask[..., :3], mask[..., 5] = False, False
    call = AttentionCall(query, key, key, mask, query.transpose(1, 2), scaling=0.5, causal=False)
    part = Part(0, slice(3, 8), 5, 0, np.zeros(5, int), np.arange(3, 8))
    made, _ = attention_map(call, part, 0)
    seen = torch.tensor([True, True, False, True, True])
    scores = torch.einsum("hqd,hkd->hqk", query[0, :, 3:], key[0, :, 3:]) * 0.5
    full = torch.softmax(scores.masked_fill(~seen, float("-inf")), -1)
    rows = made.rows(0, 5)
    assert torch.allclose(rows.weights, full[..., rows.first_key : rows.last_key], atol=1e-6)
    assert torch.equal(rows.sees(), seen.expand(5, -1))
