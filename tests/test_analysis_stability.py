"""Whether the massive features are one set: between clips, between layers, feature by feature."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sinkscope as ss
from sinkscope.analysis import find_massive_activations, find_sinks
from sinkscope.analysis.bootstrap import bootstrap_weights
from sinkscope.analysis.stability import feature_stability
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.record import Record, merge
from tests.fake_records import record_from, uniform_map
from tests.planted import planted


def clip(layers: list[set[int]], *, size: float = 900.0) -> Record:
    """Each layer has these features massive, spread over two tokens."""
    states = np.random.default_rng(0).uniform(0.5, 1.5, (len(layers), 10, 24))
    for layer, features in enumerate(layers):
        for i, feature in enumerate(sorted(features)):
            states[layer, i % 2 * 3, feature] = size
    layout = TokenLayout.of(["bos", *["text"] * 9], ["t"] * 10)
    pattern = np.repeat(uniform_map(10)[None, None], len(layers), 0)
    return record_from(pattern, states, layout)


def test_one_set_everywhere() -> None:
    plant = planted()
    record = merge(
        [ss.record(plant.model, input_ids=plant.ids(30, sinks=s)) for s in [(0, 7), (0, 4), (0,)]]
    )
    table = feature_stability(record, ratio=500).set_index("layer")
    born = table.loc[plant.layer :]
    assert born["shared"].tolist() == [(plant.feature,)] * len(born)
    assert born[["jaccard", "jaccard_low", "jaccard_high"]].to_numpy().min() == 1
    assert table.loc[plant.layer - 1, "clips"] == 0
    assert np.isnan(table.loc[plant.layer - 1, "jaccard"])
    by_sample = feature_stability(record, by="sample", ratio=500)
    assert by_sample["layers"].tolist() == ["1-4"] * 3
    assert by_sample["jaccard"].tolist() == [1.0] * 3
    shares = feature_stability(record, by="feature", ratio=500)
    assert set(shares["feature"]) == {plant.feature}
    assert shares["share"].tolist() == [1.0] * 5


def test_sets_that_differ_between_clips() -> None:
    record = merge([clip([{1, 2}]), clip([{2, 3}]), clip([set()])])
    layer = feature_stability(record, ratio=100).iloc[0]
    assert layer["jaccard"] == pytest.approx((1 / 3 + 0 + 0) / 3)
    assert (layer["clips"], layer["shared"], layer["union"]) == (2, (2,), (1, 2, 3))
    assert (layer["jaccard_low"], layer["jaccard_high"]) == pytest.approx((0, 1 / 3))


def test_sets_that_differ_between_layers() -> None:
    table = feature_stability(clip([{1}, {1, 2}, set(), {2}]), by="sample", ratio=100)
    (sample,) = table.to_dict("records")
    assert (sample["layers"], sample["n_layers"]) == ("0-1, 3", 3)
    assert (sample["shared"], sample["union"]) == ((), (1, 2))
    assert sample["jaccard"] == pytest.approx((1 / 2 + 0 + 1 / 2) / 3)
    assert sample["jaccard_neighbours"] == pytest.approx(1 / 2)


def test_shares_and_magnitudes_of_each_feature() -> None:
    record = merge([clip([{1}, {2}]), clip([{1}, {1}], size=700), clip([set(), {2}])])
    table = feature_stability(record, by="feature", ratio=100)
    seen = {
        (None if row.layer is None or row.layer != row.layer else row.layer, row.feature): row
        for row in table.astype({"layer": object}).where(table.notna(), None).itertuples()
    }
    assert set(seen) == {(0, 1), (1, 1), (1, 2), (None, 1), (None, 2)}
    assert seen[0, 1].share == pytest.approx(2 / 3)
    assert seen[0, 1].magnitude == pytest.approx(800)
    assert seen[1, 1].share == pytest.approx(1 / 3)
    assert seen[None, 1].share == pytest.approx(2 / 3)
    assert (seen[None, 1].share_low, seen[None, 1].share_high) == (0, 1)


def test_a_filtered_table_speaks_of_what_is_left() -> None:
    record = merge([clip([{1, 2}]), clip([{1, 3}])])
    massive = find_massive_activations(record, ratio=100)
    assert feature_stability(massive)["jaccard"].tolist() == pytest.approx([1 / 3])
    others = feature_stability(massive.loc[massive["segment"] != "bos"])
    assert others["jaccard"].tolist() == [0]
    none = massive.loc[massive["token"] == 9]
    assert np.isnan(feature_stability(none)["jaccard"]).all()
    assert len(feature_stability(none, by="feature")) == 0
    assert feature_stability(none, by="sample")["n_layers"].tolist() == [0, 0]


@given(st.lists(st.sets(st.integers(0, 5), max_size=4), min_size=2, max_size=6))
@settings(max_examples=20, deadline=None)
def test_means_and_intervals_equal_direct_computation(sets: list[set[int]]) -> None:
    record = merge([clip([features]) for features in sets])
    layer = feature_stability(record, ratio=100, draws=60, seed=3).iloc[0]

    def mean(clips: list[int]) -> float:
        pairs = [(sets[a], sets[b]) for a, b in combinations(clips, 2) if a != b]
        told = [len(a & b) / len(a | b) for a, b in pairs if a | b]
        return float(np.mean(told)) if told else float("nan")

    expected = mean(list(range(len(sets))))
    assert layer["jaccard"] == pytest.approx(expected, nan_ok=True)
    weights = bootstrap_weights(len(sets), draws=60, seed=3)
    drawn = np.array([mean(np.repeat(np.arange(len(sets)), w).tolist()) for w in weights])
    if not np.isnan(expected):
        ends = np.quantile(drawn[~np.isnan(drawn)], [0.025, 0.975])
        assert [layer["jaccard_low"], layer["jaccard_high"]] == pytest.approx(ends.tolist())


def test_what_cannot_be_done_is_refused() -> None:
    record = clip([{1}])
    with pytest.raises(InputError, match="by is 'token'; choose layer, sample, feature"):
        feature_stability(record, by="token")
    with pytest.raises(InputError, match="ratio cannot be applied to a finished table"):
        feature_stability(find_massive_activations(record), ratio=3)
    with pytest.raises(InputError, match="a table of 'sinks' is not one of"):
        feature_stability(find_sinks(record))
