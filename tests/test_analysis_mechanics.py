"""Mechanics of sinks against whole maps of q·k, made here from the kept queries and keys."""

import numpy as np
import pandas as pd
import pytest
import torch

import sinkscope as ss
from sinkscope.analysis import sink_mechanics
from sinkscope.analysis.advantage import KeysSeen, key_advantage
from sinkscope.errors import InputError, SiteError
from sinkscope.probes.reducers import DEFAULT
from sinkscope.record import Record
from tests.encoder_models import encoder
from tests.families import WINDOW, tiny
from tests.planted import planted

SINKS = [0, 7, 23]
COMPARED = (
    *("queries", "logit", "logit_others", "advantage", "norm_part", "cosine_part"),
    *("query_norm", "key_norm", "key_norm_others", "cosine", "cosine_others"),
    *("query_alignment", "key_to_query", "key_to_keys", "key_to_keys_others"),
)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def brute(
    record: Record, row: pd.Series, visible: np.ndarray, others: list[int]
) -> dict[str, float]:
    """Every pair of a query and two keys, one by one."""
    q = record["q"].sel(sample=row["sample"], layer=row["layer"]).values.astype(float)
    k = record["k"].sel(sample=row["sample"], layer=row["layer"]).values.astype(float)
    queries, keys = q[row["head"]], k[row["head"] * len(k) // len(q)]
    s = row["token"]
    dots = queries @ keys.T
    lengths, query_lengths = np.linalg.norm(keys, axis=1), np.linalg.norm(queries, axis=1)
    angles = dots / query_lengths[:, None] / lengths[None]
    means: dict[str, list[float]] = {name: [] for name in COMPARED}
    used = []
    for i in range(len(queries)):
        seen = [j for j in others if visible[i, j]]
        if not visible[i, s] or not seen:
            continue
        used.append(queries[i] / query_lengths[i])
        longer = lengths[s] - lengths[seen]
        nearer = angles[i, s] - angles[i, seen]
        norm = query_lengths[i] * longer * (angles[i, s] + angles[i, seen]) / 2
        angle = query_lengths[i] * nearer * (lengths[s] + lengths[seen]) / 2
        for name, value in {
            "logit": dots[i, s],
            "logit_others": dots[i, seen].mean(),
            "advantage": (dots[i, s] - dots[i, seen]).mean(),
            "norm_part": norm.mean(),
            "cosine_part": angle.mean(),
            "query_norm": query_lengths[i],
            "cosine": angles[i, s],
            "cosine_others": angles[i, seen].mean(),
        }.items():
            means[name].append(value)
    units = keys / lengths[:, None]
    mean_query = np.mean(used, axis=0)
    alone = [cosine(keys[j], sum(units[i] for i in others if i != j)) for j in others]
    return {name: float(np.mean(values)) for name, values in means.items() if values} | {
        "queries": len(used),
        "key_norm": lengths[s],
        "key_norm_others": float(np.median(lengths[others])),
        "query_alignment": float(np.linalg.norm(mean_query)),
        "key_to_query": cosine(mean_query, keys[s]),
        "key_to_keys": cosine(keys[s], units[others].sum(0)),
        "key_to_keys_others": float(np.median(alone)),
    }


def assert_like_brute(table: pd.DataFrame, record: Record, visible: np.ndarray) -> None:
    for _, row in table.iterrows():
        sinks = set(table.loc[table["sample"] == row["sample"], "token"])
        length = int(record["length"][row["sample"]])
        others = [token for token in range(length) if token not in sinks]
        expected = brute(record, row, visible[:length, :length], others)
        assert set(expected) == set(COMPARED)
        for name in COMPARED:
            assert row[name] == pytest.approx(expected[name], rel=1e-9, abs=1e-9), name


def chosen(tokens: list[int], layers: list[int], samples: int = 1) -> pd.DataFrame:
    """A table of sinks, wherever wanted."""
    cells = [(s, layer, token) for s in range(samples) for layer in layers for token in tokens]
    return pd.DataFrame(cells, columns=["sample", "layer", "token"])


def band(length: int, window: int) -> np.ndarray:
    distance = np.arange(length)[:, None] - np.arange(length)[None]
    return (distance >= 0) & (distance < window)


def ids(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 61, (1, length), generator=torch.Generator().manual_seed(seed))


def keep_both(model: torch.nn.Module, **given) -> Record:
    return ss.record(model, keep=["q", "k"], **given)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_grouped_queries_and_causality(name: str) -> None:
    record = keep_both(tiny(name), input_ids=ids(14))
    table = sink_mechanics(record, chosen([0, 4, 13], [0, 1]))
    assert len(table) == 2 * 3 * 4
    assert_like_brute(table, record, band(14, 14))
    if name == "llama":
        swapped = record["k"].isel(kv_head=[1, 0]).values
        record.dataset["k"].values[:] = swapped
        other = sink_mechanics(record, chosen([0, 4, 13], [0, 1]))
        assert (np.abs(other["advantage"] - table["advantage"]) > 1e-3).all()


def test_a_sliding_window() -> None:
    record = keep_both(tiny("mistral"), input_ids=ids(14))
    table = sink_mechanics(record, chosen([0, 4, 12], [0, 1]))
    assert_like_brute(table, record, band(14, WINDOW))
    assert table.groupby("token")["queries"].first().tolist() == [WINDOW - 1, WINDOW, 2]


@pytest.mark.parametrize("name", ["whisper", "avhubert"])
def test_an_encoder_whose_queries_see_all(name: str) -> None:
    built = encoder(name)
    with ss.probe(built.model, [*DEFAULT, ss.Keep("q"), ss.Keep("k")]) as probe:
        built.run(None)
    record = probe.record
    table = sink_mechanics(record, chosen([0, 5], [1], samples=3))
    length = int(record["length"][0])
    assert_like_brute(table, record, np.ones((length, length), bool))
    assert (table["queries"] == length).all()


@pytest.fixture(scope="module")
def plant_and_record():
    plant = planted()
    keep = ["q", "k", ss.ArgmaxShare()]
    return plant, ss.record(plant.model, input_ids=plant.ids(60, sinks=SINKS), keep=keep)


def mechanics(record: Record, **more) -> pd.DataFrame:
    return sink_mechanics(record, ss.find_sinks(record, min_heads=0.3), **more)


def test_planted_heads_attend_as_they_were_made_to(plant_and_record) -> None:
    plant, record = plant_and_record
    table = mechanics(record)
    assert sorted(set(table["token"])) == SINKS
    assert set(table["layer"]) == set(plant.locked_layers)
    assert table["sink_in_layer"].all()
    locked = table["head"].isin(plant.heads)
    assert (table.loc[locked, "advantage"] > 100).all()
    assert (table.loc[locked, ["norm_part", "cosine_part"]] > 50).all(axis=None)
    assert (table.loc[locked, "key_to_query"] > 0.99).all()
    assert (table.loc[locked, "query_alignment"] > 0.9).all()
    assert (table.loc[~locked, "advantage"].abs() < 1).all()
    pd.testing.assert_series_equal(
        table["sink_in_head"], locked.astype("boolean"), check_names=False
    )
    assert table.loc[locked, "entropy_share"].max() < 0.4
    assert table.loc[~locked, "entropy_share"].min() > 0.9
    assert (table["value_norm_ratio"] < 0.05).all()
    assert (table["residual_norm_ratio"] > 300).all()


def test_the_largest_key_attention_makes_a_head_dormant() -> None:
    plant = planted()
    record = keep_both(plant.model, input_ids=plant.ids(60))
    table = mechanics(record, dormant=0.9)
    heads = ss.sink_heads(record, dormant=0.9).set_index(["layer", "head"])["dormant"]
    expected = [heads[row] for row in zip(table["layer"], table["head"], strict=True)]
    assert table["dormant"].tolist() == expected
    assert table["dormant"].tolist() == table["head"].isin(plant.heads).tolist()
    assert table["kind"].eq("bos").all()


def test_norms_and_shares_are_those_of_the_record(plant_and_record) -> None:
    _, record = plant_and_record
    alpha, counts = ss.key_attention(record), record["argmax_count"][0]
    normal = np.setdiff1d(np.arange(60), SINKS)
    for _, row in mechanics(record).iterrows():
        layer, head, token = row["layer"], row["head"], row["token"]
        keys = record["key_norm"][0, layer, head // 2].values
        values = record["value_norm"][0, layer, head // 2].values
        entering = record["norm"][0, layer - 1].values
        assert row["kv_head"] == head // 2
        assert row["key_norm"] == pytest.approx(keys[token], rel=1e-5)
        assert row["key_norm_others"] == pytest.approx(np.median(keys[normal]), rel=1e-5)
        drain = values[token] / np.median(values[normal])
        assert row["value_norm_ratio"] == pytest.approx(drain, rel=1e-5)
        peak = entering[token] / np.median(entering[normal])
        assert row["residual_norm_ratio"] == pytest.approx(peak, rel=1e-5)
        assert row["alpha"] == pytest.approx(float(alpha[0, layer, head, token]))
        share = counts.sel(layer=layer).values[head, token] / (60 - token)
        assert row["argmax_share"] == pytest.approx(share)


def test_the_parts_sum_and_the_directions_multiply(plant_and_record) -> None:
    table = mechanics(plant_and_record[1], everywhere=True)
    parts = table["norm_part"] + table["cosine_part"]
    np.testing.assert_allclose(parts, table["advantage"], rtol=1e-12, atol=1e-12)
    difference = table["logit"] - table["logit_others"]
    np.testing.assert_allclose(difference, table["advantage"], rtol=1e-12, atol=1e-12)
    shared = table["query_alignment"] * table["key_to_query"]
    np.testing.assert_allclose(shared, table["cosine"], rtol=1e-9, atol=1e-12)


def test_everywhere_follows_a_sink_and_changes_no_number(plant_and_record) -> None:
    plant, record = plant_and_record
    short, long = mechanics(record), mechanics(record, everywhere=True)
    assert len(long) == 5 * 3 * 8
    assert set(long.loc[long["sink_in_layer"], "layer"]) == set(plant.locked_layers)
    pd.testing.assert_frame_equal(
        long.loc[long["sink_in_layer"]].reset_index(drop=True), short, check_exact=True
    )
    first = long.loc[long["layer"] == 0]
    assert first["residual_norm_ratio"].isna().all()
    assert long.loc[long["layer"] == 1, "residual_norm_ratio"].between(0.5, 5).all()
    one = mechanics(record, layers=[3])
    pd.testing.assert_frame_equal(
        one, short.loc[short["layer"] == 3].reset_index(drop=True), check_exact=True
    )


@pytest.mark.parametrize("entering", ["resid_pre", ss.Norms("resid_pre")])
def test_the_state_entering_layer_0_where_it_was_recorded(entering) -> None:
    plant = planted()
    record = keep_both(plant.model, input_ids=plant.ids(20))
    more = ss.record(
        plant.model, input_ids=plant.ids(20), keep=["q", "k", "resid_pre", ss.Norms("resid_pre")]
    )
    name = entering if isinstance(entering, str) else "resid_pre_norm"
    kept = {n: more[n] for n in more if not n.startswith("resid_pre") and n != "length"}
    held = Record.of(kept | {name: more[name]}, more.layouts, more.provenance)
    sinks = chosen([0], [0, 3])
    ratio = sink_mechanics(held, sinks)["residual_norm_ratio"].to_numpy()
    norms = np.linalg.norm(more["resid_pre"][0, 0].values, axis=-1)
    assert ratio[:8] == pytest.approx(norms[0] / np.median(norms[1:]))
    plain = sink_mechanics(record, sinks)["residual_norm_ratio"].to_numpy()
    np.testing.assert_allclose(ratio[8:], plain[8:], rtol=1e-5)


def test_even_keys_have_no_advantage() -> None:
    record = keep_both(tiny("llama"), input_ids=ids(14))
    record.dataset["k"].values[:] = record["k"].values[:, :, :, :1]
    table = sink_mechanics(record, chosen([2], [0, 1]))
    for name in ("advantage", "norm_part", "cosine_part"):
        np.testing.assert_allclose(table[name], 0, atol=1e-12)
    np.testing.assert_allclose(table["cosine"], table["cosine_others"])
    np.testing.assert_allclose(table["key_to_keys"], 1)
    record.dataset["k"].values[:, :, :, 2] *= 3
    longer = sink_mechanics(record, chosen([2], [0, 1]))
    np.testing.assert_allclose(longer["cosine_part"], 0, atol=1e-6)
    np.testing.assert_allclose(longer["norm_part"], 2 * table["logit"], rtol=1e-5)


def test_samples_of_two_lengths_are_as_each_alone() -> None:
    plant = planted()
    parts = [plant.ids(60, sinks=SINKS), plant.ids(45, sinks=[0, 9], seed=1)]
    alone = [keep_both(plant.model, input_ids=part) for part in parts]
    both = ss.merge(alone)
    together = sink_mechanics(both, ss.find_sinks(both, min_heads=0.3))
    for sample, record in enumerate(alone):
        own = together.loc[together["sample"] == sample].reset_index(drop=True)
        single = mechanics(record)
        numbers = [name for name in single if name != "sample"]
        pd.testing.assert_frame_equal(own[numbers], single[numbers], rtol=1e-9)
    assert set(together["sample"]) == {0, 1}


def test_what_is_not_held_is_missing_but_queries_and_keys_must_be() -> None:
    plant = planted()
    record = keep_both(plant.model, input_ids=plant.ids(20))
    held = {name: record[name] for name in ("q", "k", "queries")}
    bare = Record.of(held, record.layouts, record.provenance)
    table = sink_mechanics(bare, chosen([0], [2]))
    gone = ["alpha", "value_norm_ratio", "residual_norm_ratio", "entropy_share", "argmax_share"]
    assert table[[*gone, "dormant", "sink_in_head"]].isna().all(axis=None)
    assert table["advantage"].notna().all()
    with pytest.raises(SiteError, match=r'no k; record again with keep=\["q", "k"\]'):
        sink_mechanics(Record.of({"q": held["q"]}, record.layouts, record.provenance))
    with pytest.raises(InputError, match="q and k of layer 9 were not kept"):
        sink_mechanics(record, layers=[9])
    with pytest.raises(InputError, match="no token 20 in a sample 0"):
        sink_mechanics(record, chosen([20], [2]))
    with pytest.raises(InputError, match="no layer"):
        sink_mechanics(record, pd.DataFrame({"sample": [0], "token": [0]}))


def test_another_mask_gives_no_means_over_queries() -> None:
    plant = planted()
    record = keep_both(plant.model, input_ids=plant.ids(20))
    record.dataset["queries"][0, 2, :, 5] = 1
    table = sink_mechanics(record, chosen([0], [2, 3]))
    strange = table["layer"] == 2
    assert table.loc[strange, ["advantage", "cosine", "queries"]].isna().all(axis=None)
    assert table.loc[strange, ["key_norm", "key_to_keys"]].notna().all(axis=None)
    assert table.loc[~strange, "advantage"].notna().all()


def test_layers_of_q_and_k_may_differ_and_none_found_is_no_row() -> None:
    plant = planted()
    keep = [ss.Keep("q", layers=[2, 3]), ss.Keep("k", layers=[3, 4])]
    record = ss.record(plant.model, input_ids=plant.ids(60), keep=keep)
    found = ss.find_sinks(record, min_heads=0.3)
    whole = keep_both(plant.model, input_ids=plant.ids(60))
    table = sink_mechanics(record, found)
    assert set(table["layer"]) == {3}
    expected = sink_mechanics(whole, found, layers=[3])
    pd.testing.assert_frame_equal(table, expected)
    none = sink_mechanics(record, found.iloc[:0])
    assert none.empty
    assert list(none.columns) == list(table.columns)


def test_a_sink_alone_has_nothing_to_be_compared_with() -> None:
    states = np.random.default_rng(0).normal(size=(2, 3, 4))
    seen = KeysSeen.of(np.array([1.0, 2.0, 3.0]))
    assert seen is not None
    none = np.zeros(3, bool)
    rows = key_advantage(states, states, seen=seen, sinks=np.array([0]), others=none)
    assert rows["queries"].tolist() == [[0, 0]]
    assert all(np.isnan(values).all() for name, values in rows.items() if name != "queries")
