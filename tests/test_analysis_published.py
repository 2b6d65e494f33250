"""The shipped table of published features, and what matches it."""

import csv
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinkscope.analysis import find_sinks
from sinkscope.analysis.published import MARKS, _chance, match_published, published_features
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.record import Record
from tests.fake_records import fake_av_record, record_from, uniform_map
from tests.shared_data import shared

ONE_B = (400, 698, 1159, 2029)


def test_every_row_says_where_it_is_from() -> None:
    table = published_features()
    assert set(table["mark"]) == set(MARKS)
    assert (table["source"].str.len() > 10).all()
    assert set(table["bos"]) <= {"yes", "no", "any", ""}
    known = table["feature"].notna() | table["neuron"].notna()
    assert known.equals(table["note"] != "no massive activation found")
    assert not table.duplicated().any()
    numbers = table[["layer", "feature", "neuron", "magnitude"]]
    assert (numbers.isna() | (numbers >= 0)).all(axis=None)
    by_mark = table.groupby("mark")["source"].agg(set)
    assert all("@" in source for source in by_mark["measured"] | by_mark["read in code"])
    assert not any("@" in source for source in by_mark["secondary"])


def test_it_is_the_measured_table_cell_by_cell() -> None:
    """Against the file of measurements that it was made from."""
    with shared("reference/ground_truth_massive.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "measured"]
    expected = {
        (
            r["model"],
            {"true": "yes", "false": "no"}[r["bos_prepended"]],
            int(r["first_block"]),
            int(r["dim"]),
            float(r["mean_abs"]),
            float(r["std_abs"]),
        )
        for r in rows
    }
    table = published_features()
    table = table.loc[(table["mark"] == "measured") & table["std"].notna()]
    columns = ["model", "bos", "layer", "feature", "magnitude", "std"]
    assert set(table[columns].itertuples(index=False, name=None)) == expected
    assert len(table) == len(rows)
    assert (table["token"] == table["bos"].map({"yes": "BOS", "no": "first"})).all()


def test_neurons_for_the_origin_are_there() -> None:
    one_b = published_features("llama-3.2-1b")
    of_neuron = one_b.loc[one_b["neuron"].notna()]
    assert set(of_neuron["feature"]) == set(ONE_B)
    assert set(of_neuron["neuron"]) == {1417}
    assert set(of_neuron["mark"]) == {"secondary"}
    (mistral,) = published_features("Mistral-7B-v0.1").query("mark == 'read in code'").itertuples()
    assert (mistral.layer, mistral.feature, mistral.neuron) == (1, 2070, 7310)


def test_models_by_name() -> None:
    assert set(published_features("gemma-2")["model"]) == {"gemma-2-2b", "gemma-2-9b"}
    with pytest.raises(InputError, match="no model is called like 'gpt5'; the table has falcon"):
        published_features("gpt5")
    changed = published_features()
    changed["magnitude"] = 0.0  # a copy: the table itself stays
    assert published_features()["magnitude"].max() > 1000


def test_the_set_of_a_model_is_found() -> None:
    table = match_published([*ONE_B, 7], d_model=2048)
    best = table.iloc[0]
    assert (best["model"], best["published"], best["overlap"]) == ("Llama-3.2-1B", ONE_B, ONE_B)
    assert best["jaccard"] == pytest.approx(4 / 5)
    assert best["contained"]
    assert best["expected"] == pytest.approx(5 * 4 / 2048)
    assert best["chance"] < 1e-10
    assert best["marks"] == "measured; secondary"
    assert "2507.23279" in best["sources"]
    assert table["model"].tolist().count("Llama-3.2-1B") == 1
    assert not match_published([400], d_model=2048).iloc[0]["contained"]


def test_fine_tuned_models_share_the_set_of_their_base() -> None:
    table = match_published([2533, 1415], d_model=4096).set_index("model")
    assert {"Llama-2-7b-hf", "LLaVA-1.5-7B"} <= set(table.index)
    assert table.loc["LLaVA-1.5-7B", "jaccard"] == 1


def test_the_width_decides_what_can_match() -> None:
    assert "Llama-3.2-1B" not in set(match_published([400], d_model=1024)["model"])
    unknown = match_published(list(ONE_B))
    assert np.isnan(unknown[["expected", "chance"]].to_numpy()).all()
    with pytest.raises(InputError, match="features 400 to 2029 do not fit a width of 2000"):
        match_published(ONE_B, d_model=2000)
    assert match_published([5, 6, 9], d_model=64).empty
    assert match_published([], d_model=64).empty


def test_a_record_brings_its_features_and_width() -> None:
    states = np.random.default_rng(0).uniform(0.5, 1.5, (2, 10, 2048))
    states[1, 0, list(ONE_B)] = 300
    pattern = np.repeat(uniform_map(10)[None, None], 2, 0)
    made = record_from(pattern, states, TokenLayout.of(["bos", *["text"] * 9], ["t"] * 10))
    record = Record(made.dataset, made.layouts, {**made.provenance, "d_model": 2048}, made.clips)
    best = match_published(record).iloc[0]
    assert (best["model"], best["jaccard"]) == ("Llama-3.2-1B", 1)
    assert best["expected"] == pytest.approx(16 / 2048)
    with pytest.raises(InputError, match="'sinks' is not one of find_massive_activations"):
        match_published(find_sinks(fake_av_record()))


@given(st.integers(1, 7), st.data())
def test_chance_is_the_share_of_all_draws(width: int, data: st.DataObject) -> None:
    published, found = (data.draw(st.integers(1, width)) for _ in range(2))
    overlap = data.draw(st.integers(0, min(published, found)))
    draws = list(combinations(range(width), found))
    hits = sum(len(set(draw) & set(range(published))) >= overlap for draw in draws)
    assert _chance(overlap, published, found, width) == pytest.approx(hits / len(draws))
