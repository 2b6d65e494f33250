"""Every reducer: reduce(a ++ b) == merge(reduce(a), reduce(b)), for splits at every place."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sinkscope as ss
from sinkscope.errors import InputError, SiteError
from sinkscope.probes.blocks import AttentionMap
from sinkscope.probes.reducer import Cat, Max, Merger, Sum, merge
from sinkscope.probes.reducers import DEFAULT, PatternBins, Reducer
from sinkscope.probes.values import Rows, Tokens

TOKENS, FEATURES, HEADS, KV_HEADS = 13, 24, 4, 2

MAP_REDUCERS = [
    ss.SegmentAttention(),
    ss.RowEntropy(),
    ss.ArgmaxShare(),
    ss.LearnedSink(),
    ss.PatternBins(512),
    ss.PatternBins(5),
    ss.PatternBins(1),
    ss.Keep("pattern"),
]
TOKEN_REDUCERS = [
    ss.TopActivations("resid_post", k=8),
    ss.TopActivations("mlp_out", k=5, per="layer"),
    ss.TopActivations("resid_mid", k=99, per="layer"),
    ss.Median("resid_post"),
    ss.Norms("attn_out"),
    ss.BosSimilarity("resid_post"),
    ss.Keep("mlp_act"),
]
HEAD_REDUCERS = [ss.Norms("k"), ss.Norms("v"), ss.Keep("q"), ss.Keep("z"), ss.Median("k")]


def a_map(seed: int = 0, *, tokens: int = TOKENS, first_key: int = 0) -> AttentionMap:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(KV_HEADS, HEADS // KV_HEADS, tokens, 6, generator=generator) * 3
    key = torch.randn(KV_HEADS, tokens - first_key, 6, generator=generator)
    segments = np.sort(np.random.default_rng(seed).integers(0, 6, tokens))
    return AttentionMap(query, key, segments, 0.4, first_key=first_key)


def some_rows(kind: str, seed: int = 0) -> Rows:
    made = a_map(seed)
    if kind == "causal":
        return made.rows(0, TOKENS)
    if kind == "window":
        return AttentionMap(**vars(made) | {"window": 4}).rows(0, TOKENS)
    if kind == "learned sinks":
        return AttentionMap(**vars(made) | {"sinks": torch.ones(HEADS)}).rows(0, TOKENS)
    whole = made.rows(0, TOKENS)
    return Rows(whole.weights, whole.segments, length=TOKENS, visible=whole.sees())


def some_tokens(reducer: Reducer, dtype: torch.dtype, seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    heads = (3,) if reducer in HEAD_REDUCERS else ()
    shape = (*heads, TOKENS, FEATURES)
    order = torch.randperm(TOKENS * FEATURES * (heads or (1,))[0], generator=generator)
    signs = torch.where(torch.rand(len(order), generator=generator) < 0.5, -1.0, 1.0)
    distinct = 2.0 ** (order // 100) * (1 + order % 100 / 128)  # also in sixteen bits: no ties
    values = (signs * distinct).reshape(shape).to(dtype)
    reference = None if heads else values[2]
    return Tokens(values, reference=reference)


def assert_same(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for name in expected:
        assert found[name].shape == expected[name].shape, name
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6, msg=name)


def check_law(reducer: Reducer, value: Rows | Tokens, cut: int) -> None:
    before, after = value.split(cut)
    whole = reducer.finish(reducer.reduce(value))
    parts = reducer.finish(reducer.merge([reducer.reduce(before), reducer.reduce(after)]))
    assert set(parts) == set(reducer.variables())
    assert_same(dict(parts), dict(whole))


@pytest.mark.parametrize("kind", ["causal", "window", "learned sinks", "only weights"])
@pytest.mark.parametrize("reducer", MAP_REDUCERS, ids=repr)
def test_law_of_maps(reducer: Reducer, kind: str) -> None:
    for cut in (1, 5, TOKENS - 1):
        check_law(reducer, some_rows(kind), cut)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("reducer", TOKEN_REDUCERS + HEAD_REDUCERS, ids=repr)
def test_law_of_tokens(reducer: Reducer, dtype: torch.dtype) -> None:
    for cut in (1, 5, TOKENS - 1):
        check_law(reducer, some_tokens(reducer, dtype), cut)


def test_every_default_reducer_is_under_the_law() -> None:
    kinds = {type(reducer) for reducer in MAP_REDUCERS + TOKEN_REDUCERS + HEAD_REDUCERS}
    assert {type(reducer) for reducer in DEFAULT} <= kinds


@pytest.mark.parametrize("reducer", MAP_REDUCERS, ids=repr)
def test_a_sample_that_grows_token_by_token(reducer: Reducer) -> None:
    """Decode steps know a shorter sample than the prefill that they follow will have been."""
    made = a_map(tokens=TOKENS)
    whole = reducer.finish(reducer.reduce(made.rows(0, TOKENS)))
    state = None
    for first, last in [(0, 4), *((i, i + 1) for i in range(4, TOKENS))]:
        grown = AttentionMap(
            made.query[:, :, first:last],
            made.key[:, :last],
            made.segments[first:last],
            made.scaling,
            start=first,
        )
        step = reducer.reduce(grown.rows(0, last - first))
        state = step if state is None else reducer.merge([state, step])
    assert_same(dict(reducer.finish(state)), dict(whole))


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 1000))
def test_blocks_are_parts(tokens: int, rows: int, seed: int) -> None:
    """Blocks, last first, merge into what the whole map gives, in any size of block."""
    made = a_map(seed, tokens=tokens)
    for reducer in MAP_REDUCERS:
        merger = Merger(reducer.rules(), backwards=True)
        for block in made.blocks(rows=rows):
            merger.add(reducer.reduce(block))
        whole = reducer.reduce(made.rows(0, tokens))
        assert_same(dict(reducer.finish(merger.result())), dict(reducer.finish(whole)))


def test_merging_leaves_states_as_they_are() -> None:
    first, then = {"a": torch.ones(2), "b": torch.ones(1)}, {"a": torch.ones(3), "b": torch.ones(1)}
    rules = {"a": Sum(), "b": Max()}
    merged = merge([first, then, then], rules)
    assert merged["a"].tolist() == [3, 3, 2]
    assert first["a"].tolist() == [1, 1]
    assert then["a"].tolist() == [1, 1, 1]
    merge([then, first], {"a": Sum(), "b": Cat(axis=0)})
    assert then["a"].tolist() == [1, 1, 1]


def test_bins_hold_the_whole_map() -> None:
    rows = some_rows("causal")
    state = PatternBins(5).reduce(rows)
    width = int(state["pattern_bin_width"])
    assert width == 4
    assert state["pattern_bins"].shape == (HEADS, -(-TOKENS // 4), -(-TOKENS // 4))
    mean = PatternBins(5, heads="mean")
    averaged = mean.finish(mean.reduce(rows))["pattern_bins"]
    torch.testing.assert_close(averaged, state["pattern_bins"].mean(0))
    for query in range(TOKENS):
        for key in range(query + 1):
            state["pattern_bins"][:, query // width, key // width] -= rows.weights[:, query, key]
            state["pattern_bin_pairs"][query // width, key // width] -= 1
    assert state["pattern_bins"].abs().max() < 1e-5
    assert not state["pattern_bin_pairs"].any()


def test_uniform_map_has_the_closed_form() -> None:
    """alpha_k = 1 / (T - k) Σ_{q >= k} 1 / (q + 1), and entropy log(q + 1)."""
    flat = AttentionMap(torch.zeros(2, 2, 9, 4), torch.zeros(2, 9, 4), np.full(9, 6), 1.0)
    rows = flat.rows(0, 9)
    state = ss.SegmentAttention().finish(ss.SegmentAttention().reduce(rows))
    alpha = state["segment_sum"].sum(1) / state["queries"].sum(0)
    expected = [sum(1 / (q + 1) for q in range(k, 9)) / (9 - k) for k in range(9)]
    assert np.allclose(alpha, expected, atol=1e-6)
    assert np.allclose(ss.RowEntropy().reduce(rows)["entropy"], np.log(np.arange(1, 10)), atol=1e-6)


def test_median_is_torchs_lower_median_also_of_many() -> None:
    generator = torch.Generator().manual_seed(3)
    for count in (1, 2, 7, 8, 70_001, 200_000):
        for scale in (1.0, 1e4):
            values = torch.randn(count, 1, generator=generator)
            values[: count // 3] *= scale
            state = ss.Median("resid_post").reduce(Tokens(values))
            found = ss.Median("resid_post").finish(state)["median"]
            assert found == values.abs().flatten().median()
    sorted_values = torch.arange(300_000.0)[:, None]
    state = ss.Median("resid_post").reduce(Tokens(sorted_values))
    assert ss.Median("resid_post").finish(state)["median"] == sorted_values.median()
    constant = torch.ones(100_000, 1)
    constant[0] = 7
    state = ss.Median("resid_post").reduce(Tokens(constant))
    assert ss.Median("resid_post").finish(state)["median"] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_median_of_nan_is_nan(dtype: torch.dtype) -> None:
    values = torch.ones(5, 3, dtype=dtype)
    values[1, 1] = float("nan")
    median = ss.Median("resid_post")
    assert median.finish(median.reduce(Tokens(values)))["median"].isnan()


@pytest.mark.parametrize("width", [24, 512, 1000, 2048])
def test_largest_activations_of_each_token(width: int) -> None:
    values = torch.randn(40, width, generator=torch.Generator().manual_seed(1))
    values[7, 5:13] = torch.arange(-100.0, -92.0)
    state = ss.TopActivations("resid_post", k=8).reduce(Tokens(values))
    order = np.argsort(-values.abs().numpy(), axis=1, kind="stable")[:, :8]
    assert np.array_equal(state["feature"], order)
    assert np.array_equal(state["value"], np.take_along_axis(values.numpy(), order, 1))


def test_cosine_keeps_its_digits_beside_massive_features() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(50, 4096, generator=generator)
    values[:20, 3] += 5e4
    exact = torch.nn.functional.cosine_similarity(values.double(), values[:1].double())
    state = ss.BosSimilarity("resid_post").reduce(Tokens(values, reference=values[0]))
    assert (state["bos_cosine"] - exact).abs().max() < 1e-6


def test_reducers_refuse_what_they_cannot_read() -> None:
    with pytest.raises(SiteError, match="no site 'resid_past'"):
        ss.Norms("resid_past")
    with pytest.raises(SiteError, match="not 'pattern'"):
        ss.Median("pattern")
    with pytest.raises(SiteError, match="'pattern', not 'q'"):
        ss.SegmentAttention(site="q")
    with pytest.raises(SiteError, match="without a head"):
        ss.TopActivations("k")
    with pytest.raises(InputError, match="keep at least 1"):
        ss.TopActivations("resid_post", k=0)
    with pytest.raises(InputError, match="at least 1"):
        ss.PatternBins(0)
