"""Do the found features mark the sinks? Planted, decoyed, and against direct computation."""

from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sinkscope as ss
from sinkscope.analysis import find_sinks
from sinkscope.analysis.bootstrap import bootstrap_interval, bootstrap_weights
from sinkscope.analysis.validation import validate_features
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.record import Record, merge
from tests.fake_records import PLANTED, causal, fake_av_record, record_from, softmax_map
from tests.planted import Planted, planted

LENGTH, WIDTH, FEATURE, DECOY = 24, 32, 5, 11


def clip(
    *, sinks: tuple[int, ...] = (0,), massive: tuple[int, ...] = (0,), decoy: bool = False
) -> Record:
    """Three layers; all are attended at ``sinks``, and massive (before the last) at ``massive``."""
    states = np.random.default_rng(0).uniform(0.5, 1.5, (3, LENGTH, WIDTH))
    for token in massive:
        states[:2, token, FEATURE] = 900
    if decoy:
        states[:, :, DECOY] = 700
    scores = np.zeros((3, 2, LENGTH, LENGTH))
    scores[:, :, :, list(sinks)] = 9
    layout = TokenLayout.of(["bos", *["text"] * (LENGTH - 1)], [f"t{i}" for i in range(LENGTH)])
    return record_from(softmax_map(scores, causal(LENGTH)), states, layout)


def row(table: pd.DataFrame, layer: int | None = None) -> pd.Series:
    """The row of a layer, or the one over all layers."""
    found = table.loc[table["layer"].isna() if layer is None else table["layer"] == layer]
    assert len(found) == 1
    return found.iloc[0]


@pytest.fixture(scope="module")
def plant() -> Planted:
    return planted(heads=(0, 1, 2, 3, 5))


@pytest.fixture(scope="module")
def locked(plant: Planted) -> Record:
    """Three planted texts: BOS and one to two tokens more draw the attention."""
    places = [(0, 7), (0, 5, 11), (0, 9)]
    records = [
        ss.record(plant.model, input_ids=plant.ids(40, sinks=sinks, seed=i))
        for i, sinks in enumerate(places)
    ]
    return merge(records)


def test_planted_features_mark_the_planted_sinks(plant: Planted, locked: Record) -> None:
    table = validate_features(locked, threshold=0.15, ratio=500)
    for layer in plant.locked_layers:
        of_layer = row(table, layer)
        assert of_layer["features"] == (plant.feature,)
        assert of_layer["tp"] == 7
        assert of_layer["fp"] == of_layer["fn"] == 0
        assert [of_layer[name] for name in ("precision", "recall", "f1", "jaccard")] == [1.0] * 4
        assert [of_layer[f"precision_{end}"] for end in ("low", "high")] == [1.0, 1.0]
    assert table.attrs["left_out"] == [0]


def test_the_state_that_enters_is_meant_not_the_one_that_leaves(
    plant: Planted, locked: Record
) -> None:
    """The block that writes the feature does not read it: there it flags nothing."""
    table = validate_features(locked, features=[plant.feature], threshold=0.15, ratio=500)
    assert row(table, plant.layer)["flagged"] == 0
    assert row(table, plant.layer + 1)["flagged"] == 7
    gone = validate_features(clip(), ratio=100)  # massive leaves layers 0 and 1, not 2
    assert gone["flagged"].tolist() == [1, 1, 2]


def test_a_decoy_on_every_token_has_the_precision_of_chance() -> None:
    record = clip(sinks=(0, 6), massive=(0, 6), decoy=True)
    judged = LENGTH - 7
    decoy = row(validate_features(record, features=[DECOY], ratio=100), 1)
    assert (decoy["judged"], decoy["sinks"], decoy["flagged"]) == (judged, 2, judged)
    assert decoy["precision"] == pytest.approx(2 / judged)
    assert decoy["recall"] == 1
    found = row(validate_features(record, ratio=100), 1)
    assert found["features"] == (FEATURE, DECOY)
    assert found["precision"] == found["recall"] == 1
    either = row(validate_features(record, ratio=100, need="any"), 1)
    assert either["precision"] == pytest.approx(2 / judged)


def test_misses_and_false_alarms_are_counted_apart() -> None:
    table = validate_features(clip(sinks=(0, 6), massive=(0, 3, 9)), ratio=100)
    layer = row(table, 2)
    assert (layer["tp"], layer["fp"], layer["fn"]) == (1, 2, 1)
    assert layer["precision"] == pytest.approx(1 / 3)
    assert layer["recall"] == pytest.approx(1 / 2)
    assert layer["f1"] == pytest.approx(2 / 5)
    assert layer["jaccard"] == pytest.approx(1 / 4)
    total = row(table)
    assert (total["tp"], total["fp"], total["fn"]) == (2, 4, 2)


def test_without_the_reference_token_it_does_not_count() -> None:
    table = validate_features(clip(sinks=(0, 6), massive=(0, 3)), ratio=100, with_reference=False)
    layer = row(table, 1)
    assert (layer["tp"], layer["fp"], layer["fn"]) == (0, 1, 1)
    assert layer["judged"] == LENGTH - 8


def test_tokens_that_few_queries_see_are_not_judged() -> None:
    record = clip(massive=(0, LENGTH - 2))
    assert row(validate_features(record, ratio=100), 1)["fp"] == 0
    assert row(validate_features(record, ratio=100, min_queries=2), 1)["fp"] == 1


def test_where_the_reference_has_none_the_most_shared_are_taken() -> None:
    layer = row(validate_features(clip(sinks=(4,), massive=(4, 6)), ratio=100), 1)
    assert layer["features"] == (FEATURE,)
    nothing = row(validate_features(clip(massive=()), ratio=100), 1)
    assert nothing["features"] == ()
    assert nothing["flagged"] == 0
    assert nothing["recall"] == 0
    assert np.isnan(nothing["precision"])


def test_the_features_are_those_of_half_of_the_references() -> None:
    with_decoy, plain = clip(decoy=True), clip()
    features = row(validate_features(merge([with_decoy, plain]), ratio=100), 1)["features"]
    assert features == (FEATURE, DECOY)
    features = row(validate_features(merge([with_decoy, plain, plain]), ratio=100), 1)["features"]
    assert features == (FEATURE,)


def test_it_counts_what_find_sinks_and_find_massive_activations_find() -> None:
    records = [fake_av_record(n, seed=n) for n in (60, 72, 80)]
    record = merge(records)
    table = validate_features(record)
    sinks = find_sinks(record)
    sinks = sinks.loc[sinks["layer"] > 0]
    assert row(table)["sinks"] == len(sinks)
    assert row(table)["tp"] == int(sinks["massive_entering"].sum())
    assert set(row(table, 2)["features"]) == set(PLANTED.features)
    one_by_one = [row(validate_features(r)) for r in records]
    for name in ("tp", "fp", "fn", "judged"):
        assert row(table)[name] == sum(one[name] for one in one_by_one)


def test_features_that_the_record_cannot_hold_are_told() -> None:
    states = np.random.default_rng(1).uniform(0.5, 1.5, (2, LENGTH, WIDTH))
    states[:, 0, :9] = 900 + np.arange(9)  # one more than the eight that are held
    layout = TokenLayout.of(["bos", *["text"] * (LENGTH - 1)], ["t"] * LENGTH)
    pattern = softmax_map(np.zeros((2, 2, LENGTH, LENGTH)), causal(LENGTH))
    record = record_from(pattern, states, layout)
    assert row(validate_features(record, features=[0], ratio=100), 1)["truncated"] == 1
    assert row(validate_features(record, features=[8], ratio=100), 1)["truncated"] == 0
    with pytest.raises(InputError, match="9 features were given; the record holds the 8 largest"):
        validate_features(record, features=range(9))


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(InputError, match="need is 'most'"):
        validate_features(clip(), need="most")
    layout = TokenLayout.of(["bos", *["text"] * 11], ["t"] * 12)
    single = record_from(np.full((1, 1, 12, 12), 1 / 12), np.ones((1, 12, 4)), layout)
    with pytest.raises(InputError, match="has the one before it"):
        validate_features(single)


def test_two_opposite_clips_span_everything() -> None:
    record = merge([clip(), clip(sinks=(0,), massive=(0, 3, 4, 5))])
    first = row(validate_features(record, ratio=100), 1)
    assert first["precision"] == pytest.approx(2 / 5)
    assert (first["precision_low"], first["precision_high"]) == (0.25, 1.0)
    alone = row(validate_features(clip(), ratio=100), 1)
    assert alone["precision"] == 1
    assert np.isnan(alone["precision_low"])


@pytest.mark.parametrize("hits", [3, 10, 17])
def test_the_interval_of_a_share_is_the_binomials(hits: int) -> None:
    """Drawing clips that have it or not is a binomial draw: its quantiles are known."""
    clips, share = 20, hits / 20
    has = np.arange(clips) < hits
    weights = bootstrap_weights(clips, draws=20000)
    point, low, high = bootstrap_interval(lambda w: (w @ has / clips)[:, None], weights)
    mass = [comb(clips, k) * share**k * (1 - share) ** (clips - k) for k in range(clips + 1)]
    ends = [int(np.searchsorted(np.cumsum(mass), q)) / clips for q in (0.025, 0.975)]
    assert point[0] == share
    assert [low[0], high[0]] == pytest.approx(ends)


def test_undefined_draws_are_left_out_and_an_undefined_point_has_no_interval() -> None:
    tp, all_of = np.array([1.0, 0.0]), np.array([1.0, 0.0])
    weights = bootstrap_weights(2, draws=200)

    def share(w: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.stack([w @ tp / (w @ all_of), w @ tp * 0 / (w @ tp * 0)], -1)

    point, low, high = bootstrap_interval(share, weights)
    assert (point[0], low[0], high[0]) == (1, 1, 1)
    assert np.isnan([point[1], low[1], high[1]]).all()
    with pytest.raises(InputError, match="0 draws of 2 clips"):
        bootstrap_weights(2, draws=0)


@given(
    counts=st.lists(st.tuples(*[st.integers(0, 5)] * 2), min_size=2, max_size=7),
    seed=st.integers(0, 9),
)
@settings(max_examples=25, deadline=None)
def test_weights_are_the_resamples(counts: list[tuple[int, int]], seed: int) -> None:
    """The product with weights equals the sum over the clips that each draw names."""
    table = np.array(counts)
    weights = bootstrap_weights(len(table), draws=30, seed=seed)
    drawn = [np.repeat(np.arange(len(table)), w) for w in weights]
    assert all(len(clips) == len(table) for clips in drawn)
    np.testing.assert_array_equal(weights @ table, [table[clips].sum(0) for clips in drawn])
