"""Massive activations, the cosine to BOS and twins: planted, and their decoys."""

import numpy as np
import pandas as pd
import pytest

from sinkscope.analysis import (
    bos_similarity,
    describe,
    find_massive_activations,
    massive_features,
    massive_layers,
    twins,
)
from sinkscope.errors import InputError
from sinkscope.glossary import TABLE_COLUMNS
from sinkscope.layout import TokenLayout
from sinkscope.record import Record, merge
from tests.fake_records import PLANTED, RATIO, fake_av_record, record_from, uniform_map


def record_of(states: np.ndarray, *, reference: int | None = None, **more) -> Record:
    length = states.shape[1]
    layout = TokenLayout.of(
        ["bos", *["text"] * (length - 1)], [f"t{i}" for i in range(length)], reference=reference
    )
    pattern = np.repeat(uniform_map(length)[None, None], len(states), 0)
    return record_from(pattern, states, layout, **more)


def noise(*, layers: int = 3, length: int = 12, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(layers, length, width))


def cells(table: pd.DataFrame) -> set[tuple[int, int, int]]:
    return set(zip(table["layer"], table["token"], table["feature"], strict=True))


def test_exactly_what_was_planted() -> None:
    states = noise(layers=4)
    wanted = {(1, 0, 5): 900.0, (1, 7, 5): -1200.0, (2, 0, 5): 950.0, (2, 0, 30): -800.0}
    for (layer, token, feature), value in wanted.items():
        states[layer, token, feature] = value
    table = find_massive_activations(record_of(states), ratio=500)
    assert cells(table) == set(wanted)
    assert tuple(table.columns[: len(TABLE_COLUMNS)]) == TABLE_COLUMNS
    assert table.columns[-1] == "bos_present"
    for row in table.itertuples():
        assert row.value == wanted[row.layer, row.token, row.feature]
        median = np.sort(np.abs(states[row.layer]), axis=None)[12 * 32 // 2 - 1]
        assert row.ratio == pytest.approx(abs(row.value) / median)
        assert row.magnitude == abs(row.value)
        assert row.paper_layer == row.layer + 1
        assert row.ratio_threshold == 500
    spans = table.set_index(["token", "feature"])[["first_layer", "last_layer"]]
    assert spans.loc[(0, 5)].to_numpy().tolist() == [[1, 2], [1, 2]]
    assert spans.loc[(7, 5)].tolist() == [1, 1]


def test_the_thresholds_are_as_the_paper_has_them() -> None:
    """|x| >= ratio x median; and above the floor, strictly."""
    states = np.full((1, 9, 8), 2.0)
    states[0, 3, 1], states[0, 4, 2] = 200.0, 199.0
    table = find_massive_activations(record_of(states), ratio=100)
    assert cells(table) == {(0, 3, 1)}
    assert len(find_massive_activations(record_of(states), ratio=99.5)) == 2
    assert find_massive_activations(record_of(states), ratio=99.5, floor=199).attrs["floor"] == 199
    assert cells(find_massive_activations(record_of(states), ratio=99.5, floor=199)) == {(0, 3, 1)}
    assert find_massive_activations(record_of(states), ratio=99.5, floor=200).empty
    with pytest.raises(InputError, match="floor is 0"):
        find_massive_activations(record_of(states), floor=0)


def test_the_ratio_is_the_given_then_the_subjects_then_1000() -> None:
    states = noise()
    states[1, 0, 3] = 100.0
    own, none = record_of(states), record_of(states, massive_ratio=None)
    assert find_massive_activations(own).attrs["ratio_threshold"] == RATIO
    assert find_massive_activations(own)["ratio_threshold"].tolist() == [RATIO]
    default = find_massive_activations(none)
    assert default.empty
    assert (default.attrs["ratio_threshold"], default.attrs["ratio_source"]) == (1000.0, "default")
    assert default.attrs["largest_ratio"] == pytest.approx(massive_layers(none)["ratio"].max())
    assert "No massive activation found (|x| ≥ 1000 × the layer's median, default)" in describe(
        default
    )
    full = find_massive_activations(own)
    assert default.dtypes.tolist() == full.dtypes.tolist()
    assert default.columns.tolist() == full.columns.tolist()


def test_a_token_whose_every_held_feature_passes_is_marked() -> None:
    states = noise()
    states[1, 0, 2:12] = 500.0  # ten features; a record holds eight
    states[1, 5, 2:6] = 500.0
    table = find_massive_activations(record_of(states))
    assert table.attrs["truncated"]
    assert table.loc[table["token"] == 0, "truncated"].all()
    assert not table.loc[table["token"] == 5, "truncated"].any()
    assert (table["token"] == 0).sum() == 8
    assert "at least" in describe(table)


def test_the_feature_sets_of_a_layers_tokens() -> None:
    states = noise()
    states[1, 0, [3, 9]] = 500.0
    states[1, 4, [9, 3]] = -400.0
    states[2, 0, [3, 9]] = 500.0
    states[2, 4, [9, 11, 12]] = 400.0
    record = record_of(states)
    table = massive_features(record).set_index(["layer", "token"])
    assert table.loc[(1, 0), "features"] == (3, 9)
    assert table.loc[1]["same"].all()
    assert not table.loc[2]["same"].any()
    assert table.loc[(2, 4), "features"] == (9, 11, 12)
    assert table.loc[(2, 4), "shared"] == (9,)
    assert table.loc[(2, 0), "union"] == (3, 9, 11, 12)
    assert table.loc[(2, 0), "jaccard"] == 0.25
    assert "the same set in 1 of 2 layers" in describe(massive_features(record))
    assert massive_features(find_massive_activations(record)).equals(massive_features(record))
    none = massive_features(record, ratio=10_000)
    assert none.empty
    assert "no sets to compare" in describe(none)
    with pytest.raises(InputError, match="not one of find_massive_activations"):
        massive_features(bos_similarity(record))
    with pytest.raises(InputError, match="cannot be applied"):
        massive_features(find_massive_activations(record), ratio=3)


def test_the_av_record_has_its_features_on_the_planted_tokens_only() -> None:
    record = fake_av_record(300)
    labels = record.layouts[0].labels
    table = find_massive_activations(record)
    assert set(table["label"]) == {PLANTED.bos, PLANTED.sink, PLANTED.twin}
    assert set(table["feature"]) == set(PLANTED.features)
    assert set(table["layer"]) == set(PLANTED.massive_layers)
    assert massive_features(table)["same"].all()
    twin = table[table["label"] == PLANTED.twin]
    assert twin[["start", "end"]].drop_duplicates().to_numpy().tolist() == [[0.4, 0.48]]
    assert set(table["token"]) == {labels.index(label) for label in set(table["label"])}


def test_the_largest_of_every_layer() -> None:
    states = noise(layers=2)
    states[1, 6, 3], states[1, 6, 8], states[1, 2, 3] = -90.0, 80.0, 70.0
    table = massive_layers(record_of(states, first_layer=4))
    row = table.iloc[1]
    assert row[["layer", "paper_layer", "token", "feature"]].tolist() == [5, 6, 6, 3]
    assert row[["top1", "top2", "top3"]].tolist() == [90.0, 80.0, 70.0]
    assert row[["top2_token", "top2_feature", "top3_token", "top3_feature"]].tolist() == [
        6,
        8,
        2,
        3,
    ]
    quiet = np.sort(np.abs(states[0]), axis=None)
    np.testing.assert_allclose(table.loc[0, ["top3", "top2", "top1"]].to_numpy(float), quiet[-3:])
    assert table.loc[0, "median"] == pytest.approx(quiet[len(quiet) // 2 - 1])
    assert row["ratio"] == pytest.approx(90 / row["median"])
    with pytest.raises(InputError, match="count is 9; the record holds 1 to 8"):
        massive_layers(record_of(states), count=9)


def test_ragged_samples_have_their_own_medians_and_tokens() -> None:
    small, large = noise(length=9, seed=1), 40 * noise(length=14, seed=2)
    small[1, 2, 3], large[1, 13, 4] = 80.0, 80.0  # massive beside the small states only
    both = merge([record_of(small), record_of(large)])
    table = find_massive_activations(both)
    assert table[["sample", "layer", "token", "feature"]].to_numpy().tolist() == [[0, 1, 2, 3]]
    layers = massive_layers(both)
    assert len(layers) == 6
    assert (layers.loc[layers["sample"] == 0, "token"] < 9).all()


def test_cosines_of_every_token_and_layer() -> None:
    states = noise(layers=2, length=5)
    states[1, 3] = -2 * states[1, 0]
    table = bos_similarity(record_of(states))
    assert len(table) == 10
    for row in table.itertuples():
        a, b = states[row.layer, row.token], states[row.layer, 0]
        assert row.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        assert row.is_reference == (row.token == 0)
    assert table.set_index(["layer", "token"]).loc[(1, 3), "cosine"] == pytest.approx(-1)


def test_the_reference_is_the_layouts() -> None:
    states = noise(layers=1, length=6)
    table = bos_similarity(record_of(states, reference=4))
    assert table.loc[table["is_reference"], "token"].tolist() == [4]
    assert table.loc[4, "cosine"] == pytest.approx(1)
    assert (table["reference"] == 4).all()
    ragged = merge([record_of(noise(length=4)), record_of(noise(length=7))])
    assert len(bos_similarity(ragged)) == 3 * (4 + 7)
    assert bos_similarity(ragged)["cosine"].notna().all()


def test_twins_need_not_be_sinks() -> None:
    record = fake_av_record(300)
    table = twins(record)
    assert set(table["label"]) == {PLANTED.sink, PLANTED.twin}
    assert set(table["layer"]) == set(PLANTED.massive_layers)
    assert not table.loc[table["label"] == PLANTED.twin, "is_sink"].any()
    attended = table[table["label"] == PLANTED.sink].set_index("layer")["is_sink"]
    assert attended.loc[[2, 3, 4]].all()
    assert not attended.loc[1]
    assert not table["is_reference"].any()
    assert "2 twins of BOS" in describe(table)
    assert "of which 1 draws" in describe(table)
    without = record.dataset.drop_vars(["segment_sum", "queries"])
    alone = twins(Record(without, record.layouts, record.provenance))
    assert alone["is_sink"].isna().all()
    assert len(alone) == len(table)


def test_no_twins_is_said_with_the_largest_cosine() -> None:
    table = twins(fake_av_record(60, sink=False, twin=False))
    assert table.empty
    assert table.columns.tolist() == twins(fake_av_record(60)).columns.tolist()
    cosines = bos_similarity(fake_av_record(60, sink=False, twin=False))
    largest = cosines.loc[~cosines["is_reference"], "cosine"].max()
    assert f"is {largest:.2f}." in describe(table)
    with pytest.raises(InputError, match="cosine is 2"):
        twins(fake_av_record(60), cosine=2.0)
