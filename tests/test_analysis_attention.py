"""key_attention and sink_rate against closed forms, on every kind of input."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from sinkscope.analysis.sinks import key_attention, sink_rate
from sinkscope.errors import InputError, SiteError
from sinkscope.layout import TokenLayout
from sinkscope.record import Record, merge
from tests.fake_records import causal, fake_av_record, record_from, softmax_map, uniform_map


def closed_form(length: int) -> np.ndarray:
    """Key attention of even causal attention: (1/(T-k)) * sum over q >= k of 1/(q+1)."""
    return np.array(
        [sum(1 / (q + 1) for q in range(k, length)) / (length - k) for k in range(length)]
    )


def random_map(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return softmax_map(rng.normal(0, 2, shape), causal(shape[-1]))


def text_record(pattern: np.ndarray, *, visible: np.ndarray | None = None, **more) -> Record:
    length = pattern.shape[-1]
    states = np.random.default_rng(1).normal(size=(len(pattern), length, 16))
    layout = TokenLayout.of_text([f"t{i}" for i in range(length)], has_bos=True)
    return record_from(pattern, states, layout, visible=visible, **more)


@settings(max_examples=20, deadline=None)
@given(length=st.integers(1, 40))
def test_even_attention_has_the_closed_form(length: int) -> None:
    np.testing.assert_allclose(key_attention(uniform_map(length)), closed_form(length), atol=1e-12)


def test_every_kind_of_input_gives_the_same() -> None:
    pattern = random_map(2, 3, 9, 9).astype(np.float32)
    expected = key_attention(pattern)
    assert expected.shape == (2, 3, 9)
    tensor = torch.from_numpy(pattern).requires_grad_()
    np.testing.assert_allclose(key_attention(tensor), expected, atol=1e-12)
    rounded = key_attention(torch.from_numpy(pattern).bfloat16())
    np.testing.assert_allclose(rounded, expected, atol=1e-2)
    labelled = xr.DataArray(pattern, dims=("layer", "head", "query", "key"))
    np.testing.assert_allclose(key_attention(labelled), expected, atol=1e-12)
    turned = key_attention(labelled.transpose("key", "query", "head", "layer"))
    np.testing.assert_allclose(turned.transpose("layer", "head", "key"), expected, atol=1e-12)
    of_record = key_attention(text_record(pattern))
    assert of_record.dims == ("sample", "layer", "head", "key")
    np.testing.assert_allclose(of_record.values[0], expected, atol=1e-6)
    tensor_rate = sink_rate(torch.from_numpy(expected))
    np.testing.assert_array_equal(tensor_rate, sink_rate(expected))


def test_only_visible_pairs_count() -> None:
    window = causal(12, window=4)
    pattern = uniform_map(12, window)
    by_hand = [pattern[k : k + 4, k].mean() for k in range(12)]
    np.testing.assert_allclose(key_attention(pattern, visible=window), by_hand)
    assert np.abs(key_attention(pattern) - by_hand).max() > 0.1  # the mask is not decoration
    record = text_record(pattern[None, None], visible=window)
    np.testing.assert_allclose(key_attention(record).values[0, 0, 0], by_hand, atol=1e-7)

    padded = pattern.copy()
    padded[~window] = 99.0  # what a kernel leaves at masked pairs is not attention
    np.testing.assert_allclose(key_attention(padded, visible=window), by_hand)
    nobody = window.copy()
    nobody[:, 5] = False
    assert np.isnan(key_attention(pattern, visible=nobody)[5])


def test_left_padding_with_a_mask_is_the_sample_alone() -> None:
    alone = random_map(2, 6, 6)
    padded = np.zeros((2, 9, 9))
    padded[:, 3:, 3:] = alone
    padded[:, :3, :3] = 1 / 3
    visible = np.zeros((9, 9), bool)
    visible[3:, 3:] = causal(6)
    alpha = key_attention(padded, visible=visible)
    assert np.isnan(alpha[:, :3]).all()
    np.testing.assert_allclose(alpha[:, 3:], key_attention(alone))


def test_samples_of_unequal_length() -> None:
    maps = [random_map(2, 3, length, length, seed=length) for length in (7, 11)]
    both = merge([text_record(pattern, keep=["pattern"]) for pattern in maps])
    streamed, kept = key_attention(both), key_attention(both["pattern"])
    for sample, pattern in enumerate(maps):
        length = pattern.shape[-1]
        expected = key_attention(pattern)
        np.testing.assert_allclose(streamed.values[sample, :, :, :length], expected, atol=1e-6)
        np.testing.assert_allclose(kept.values[sample, :, :, :length], expected, atol=1e-6)
    assert np.isnan(streamed.values[0, :, :, 7:]).all()
    assert np.isnan(kept.values[0, :, :, 7:]).all()
    assert np.isnan(sink_rate(streamed).values[0, :, 7:]).all()


def test_the_sink_rate_is_strict_and_finds_its_head_axis() -> None:
    alpha = np.array([[0.3, 0.31, 0.1], [0.5, 0.2, np.nan]])
    np.testing.assert_allclose(sink_rate(alpha), [0.5, 0.5, 0.0])
    np.testing.assert_allclose(sink_rate(alpha, threshold=0.05), [1, 1, 1])
    labelled = xr.DataArray(alpha.T, dims=("key", "head"))
    np.testing.assert_allclose(sink_rate(labelled), [0.5, 0.5, 0.0])
    assert np.isnan(sink_rate(np.full((2, 3), np.nan))).all()
    assert np.isnan(sink_rate(xr.DataArray(np.full((2, 3), np.nan), dims=("head", "key")))).all()


def test_the_input_is_left_alone() -> None:
    pattern = random_map(2, 5, 5)
    before = pattern.copy()
    sink_rate(key_attention(pattern))
    np.testing.assert_array_equal(pattern, before)
    record = fake_av_record(60)
    held = record.dataset.copy(deep=True)
    key_attention(record)
    assert record.dataset.identical(held)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="3 queries and 5 keys are not a whole causal map"):
        key_attention(np.ones((3, 5)))
    with pytest.raises(InputError, match="visible has shape"):
        key_attention(np.ones((2, 5, 5)), visible=np.ones((4, 4), bool))
    with pytest.raises(InputError, match="needs query and key"):
        key_attention(xr.DataArray(np.ones((5, 5)), dims=("query", "token")))
    with pytest.raises(InputError, match="a Record says itself"):
        key_attention(fake_av_record(60), visible=causal(60))
    with pytest.raises(InputError, match=r"give \[..., query, key\]"):
        key_attention(np.ones(5))
    with pytest.raises(InputError, match=r"give \[..., head, key\]"):
        sink_rate(np.ones(5))
    with pytest.raises(InputError, match="needs a head"):
        sink_rate(xr.DataArray(np.ones((5, 5)), dims=("query", "token")))
    record = fake_av_record(60)
    without = Record(record.dataset.drop_vars("segment_sum"), record.layouts, record.provenance)
    with pytest.raises(SiteError, match="no 'segment_sum'"):
        key_attention(without)
