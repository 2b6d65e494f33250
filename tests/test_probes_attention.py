"""Statistics of attention equal a full float32 map from the same q and k, in every family."""

import numpy as np
import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import sinkscope as ss
from sinkscope.errors import SiteError
from sinkscope.glossary import SEGMENTS
from sinkscope.probes.attention import watching
from sinkscope.probes.blocks import AttentionMap
from tests.families import FAMILIES, PADDINGS, batch, build, tiny
from tests.full_maps import arriving

MAPS = (ss.SegmentAttention(), ss.RowEntropy(), ss.ArgmaxShare(), ss.PatternBins(4), ss.Norms("k"))


def real_of(inputs: dict) -> np.ndarray:
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
    return mask.bool().numpy()


def check_against_full_maps(model, inputs: dict, *, sharp: float = 1.0) -> None:
    layouts = [random_segments(row, seed=i) for i, row in enumerate(real_of(inputs))]
    with arriving(model) as arrived:
        record = ss.record(model, **inputs, layout=layouts, reducers=MAPS, keep=["pattern"])
    for sample, real in enumerate(real_of(inputs)):
        places = np.flatnonzero(real)
        one = record.sample(sample)
        segments = layouts[sample].segment_index[places]
        for layer, call in enumerate(arrived):
            full = call.map()[sample][:, places][:, :, places].double().numpy()
            seen = call.visible()[sample][places][:, places].numpy()
            check_sample(one, layer, full, seen, segments, sharp)
            norms = call.key[sample, :, places].float().norm(dim=-1)
            found = one["key_norm"][0, layer]  # layers may differ in their number of key heads
            assert np.allclose(found[: len(norms)], norms, rtol=1e-5)
            assert np.isnan(found[len(norms) :]).all()


def check_sample(one, layer, full, seen, segments, sharp=1.0) -> None:
    tolerance = 1e-5
    assert np.abs(one["pattern"][0, layer].values - full).max() < tolerance
    assert np.array_equal(one["visible"][0, layer].values.astype(bool), seen)
    for i in range(len(SEGMENTS)):
        rows = segments == i
        sums = one["segment_sum"][0, layer, :, i].values
        assert np.abs(sums - full[:, rows].sum(1)).max() < tolerance * max(1, rows.sum())
        assert np.array_equal(one["queries"][0, layer, i].values, seen[rows].sum(0))
    alpha = one["segment_sum"][0, layer].sum("segment") / one["queries"][0, layer].sum("segment")
    assert np.abs(alpha - full.sum(1) / seen.sum(0)).max() < tolerance
    entropy = -(full * np.log(np.where(full > 0, full, 1))).sum(-1)
    assert np.abs(one["entropy"][0, layer] - entropy).max() < sharp * tolerance
    assert np.abs(one["pattern_bins"][0, layer].sum() - full.sum()) < tolerance * full.size
    assert one["pattern_bin_pairs"][0, layer].sum() == seen.sum()
    peaks = np.stack([np.bincount(row.argmax(-1), minlength=len(seen)) for row in full])
    assert np.array_equal(one["argmax_count"][0, layer], peaks)


def random_segments(real: np.ndarray, *, seed: int) -> ss.TokenLayout:
    choices = np.random.default_rng(seed).choice([s for s in SEGMENTS if s != "padding"], len(real))
    return ss.TokenLayout.of(np.where(real, choices, "padding").tolist(), [""] * len(real))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_equal_full_maps(family: str, padding: str) -> None:
    check_against_full_maps(tiny(family), batch(padding))


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt_oss", "gpt2"])
def test_statistics_in_bfloat16(family: str, padding: str) -> None:
    model = build(family).to(torch.bfloat16)
    check_against_full_maps(model, batch(padding))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gpt2"])
def test_statistics_with_eager(family: str) -> None:
    """Under eager attention, which returns its own maps."""
    model = build(family)
    model.set_attn_implementation("eager")
    inputs = batch("left")
    check_against_full_maps(model, inputs)
    with torch.no_grad():
        maps = model(**inputs, output_attentions=True, use_cache=False).attentions
    record = ss.record(model, **inputs, keep=["pattern"])
    for sample, real in enumerate(real_of(inputs)):
        places = np.flatnonzero(real)
        found = record.sample(sample)["pattern"][0].values
        for layer, own in enumerate(maps):
            own_map = own[sample][:, places][:, :, places].numpy()
            assert np.abs(found[layer] - own_map).max() < 1e-5


def test_a_custom_mask_rules_what_is_seen() -> None:
    """Two texts in one row, each of which sees itself only."""
    model, tokens = tiny("llama"), 10
    owner = torch.arange(tokens) // 5
    mask = (owner[:, None] == owner[None]) & torch.ones(tokens, tokens, dtype=torch.bool).tril()
    inputs = {"input_ids": batch(samples=1, tokens=tokens)["input_ids"]}
    with arriving(model) as arrived, torch.no_grad():
        model(**inputs, attention_mask=mask[None, None], use_cache=False)
    with ss.probe(model, [*MAPS, "pattern"]) as probe, torch.no_grad():
        model(**inputs, attention_mask=mask[None, None], use_cache=False)
    segments = probe.record.layouts[0].segment_index
    for layer, call in enumerate(arrived):
        full = call.map()[0].double().numpy()
        check_sample(probe.record, layer, full, mask.numpy(), segments)


def test_long_inputs_go_through_many_blocks() -> None:
    model = build("llama", max_position_embeddings=700)
    inputs = batch("left", samples=2, tokens=600)
    check_against_full_maps(model, inputs)
    window = build("mistral", max_position_embeddings=700, sliding_window=50)
    check_against_full_maps(window, inputs)


def test_scores_of_any_size() -> None:
    """Rows that are one-hot, and scores in the thousands, as massive keys make them."""
    model = build("llama", scale=3.0)
    check_against_full_maps(model, batch("none"), sharp=10)  # scores have few digits after 1000


@pytest.mark.parametrize("window", [1, 3, 40])
def test_window_that_the_kernel_applies(window: int) -> None:
    """Flash attention gets no mask: the window is applied here, and in blocks as in one."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 2, 20, 8, generator=generator)
    key = torch.randn(2, 20, 8, generator=generator)
    far = torch.arange(20)[:, None] - torch.arange(20)
    expected = (far >= 0) & (far < window)
    made = AttentionMap(query, key, np.zeros(20, int), 1.0, window=window)
    scores = torch.einsum("hgqd,hkd->hgqk", query, key).flatten(0, 1)
    full = torch.softmax(scores.masked_fill(~expected, float("-inf")), -1)
    for rows in (1, 3, 20):
        for block in made.blocks(rows=rows):
            keys = slice(block.first_key, block.last_key)
            own = full[:, block.start : block.start + block.n_queries]
            assert torch.allclose(block.weights, own[..., keys], atol=1e-6)
            assert own[..., keys].sum() == pytest.approx(own.sum().item())


def test_a_row_that_sees_nothing_attends_to_nothing() -> None:
    mask = torch.ones(1, 4, 4, dtype=torch.bool).tril()
    mask[0, 2] = False
    made = AttentionMap(
        torch.randn(1, 1, 4, 2), torch.randn(1, 4, 2), np.zeros(4, int), 1.0, mask=mask
    )
    rows = made.rows(0, 4)
    assert rows.weights[0].sum(-1).tolist() == pytest.approx([1, 1, 0, 1])
    assert torch.isfinite(ss.RowEntropy().reduce(rows)["entropy"]).all()
    assert ss.SegmentAttention().reduce(rows)["queries bos"].tolist() == [3, 2, 1, 1]


# -- what must be refused ----------------------------------------------------------------------


def with_attention(model, function):
    """A context in which a model's attention is another function."""
    from contextlib import contextmanager

    @contextmanager
    def replaced():
        ALL_ATTENTION_FUNCTIONS["sdpa"] = function
        try:
            yield
        finally:
            del ALL_ATTENTION_FUNCTIONS["sdpa"]

    return replaced()


def sdpa(*args, **kwargs):
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(*args, **kwargs)


def test_another_formula_is_refused() -> None:
    """Attention that shifts its keys by one, or forgets a mask, or scales otherwise."""
    model, inputs = tiny("llama"), batch("left")

    def shifted(module, query, key, value, mask, **options):
        return sdpa(module, query, key.roll(1, dims=2), value, mask, **options)

    def sharper(module, query, key, value, mask, **options):
        return sdpa(module, query * 1.1, key, value, mask, **options)

    def unmasked(module, query, key, value, mask, **options):
        return sdpa(module, query, key, value, None, **options)

    for wrong in (shifted, sharper, unmasked):
        with (
            with_attention(model, wrong),
            pytest.raises(SiteError, match="layer 0 the model's own attention gives another"),
        ):
            ss.record(model, **inputs)
    with with_attention(model, sdpa):
        ss.record(model, **inputs)


def test_unknown_options_are_refused() -> None:
    model = tiny("llama")
    probe = ss.probe(model)
    with pytest.raises(SiteError, match="hands attention_sink to 'sdpa'"), probe:
        model(batch()["input_ids"], attention_sink=torch.ones(4))
    with pytest.raises(ss.SinkscopeError, match="no record"):
        _ = probe.record


def test_unknown_attention_functions_are_refused() -> None:
    with (
        pytest.raises(SiteError, match="'flex_attention' is not known here"),
        watching("flex_attention", {}),
    ):
        pass


def test_a_model_without_the_interface_is_refused() -> None:
    module = torch.nn.Linear(2, 2)
    with (
        pytest.raises(SiteError, match="Linear does not use transformers' attention interface"),
        watching("sdpa", {module: lambda call: None}),
    ):
        pass


def test_a_model_that_drops_weights_at_random_is_told_so() -> None:
    model = build("llama", attention_dropout=0.5).train()
    with pytest.raises(SiteError, match=r"training mode .*eval\(\)"), ss.probe(model, ["pattern"]):
        model(**batch(samples=1))
