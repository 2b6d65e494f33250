"""Planted changes are found exactly, and nothing else is; before and after are not mixed up."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import sinkscope as ss
from sinkscope.analysis.bootstrap import bootstrap_weights
from sinkscope.analysis.comparison import MEANING, Comparison
from sinkscope.record import Record, merge
from tests.compared_records import BASE, clip_record, clips_record

AFTER = replace(BASE, subject="after")


def over_layers(table: pd.DataFrame) -> pd.DataFrame:
    return table.loc[table["layer"].isna()]


def effect(found: Comparison, metric: str) -> pd.Series:
    return found.effects.set_index("metric").loc[metric]


def test_identical_records() -> None:
    record = clips_record()
    found = ss.compare(record, record)
    assert set(found.features["status"]) == set(found.sinks["status"]) == {"kept"}
    assert sorted(over_layers(found.features)["feature"]) == [7, 29, 57]
    for table in (found.effects, found.features, found.attention, found.similarity_summary):
        moved = table[["change", "low", "high", "effect_size"]]
        assert len(moved)
        assert (moved.to_numpy() == 0).all()
    told = found.feature_sets.loc[found.feature_sets["clips"] > 0]
    assert told[["jaccard", "jaccard_low", "jaccard_high"]].to_numpy().tolist() == [[1, 1, 1]] * 3
    assert "No number differs" in ss.describe(found)


def test_a_feature_that_is_lost() -> None:
    fewer = replace(AFTER, features=((7, 400.0), (57, 250.0), (11, 500.0)))
    found = ss.compare(clips_record(), clips_record(fewer))
    features = over_layers(found.features).set_index("feature")
    assert features["status"].to_dict() == {7: "kept", 57: "kept", 29: "lost", 11: "new"}
    sizes = 300 * np.array([1.0, 1.1, 1.2])
    assert features.loc[29, "magnitude_before"] == pytest.approx(sizes.mean())
    assert features.loc[29, "magnitude_after"] < 10
    assert not features["at_most_after"].any()
    assert not features["at_most_before"].loc[[7, 29, 57]].any()
    assert features.loc[7, "change"] == 0
    assert features.loc[29, ["clips_before", "clips_after"]].tolist() == [3, 0]
    assert features.loc[29, ["layers_before", "layers_after"]].tolist() == ["1-2", ""]
    sets = found.feature_sets.set_index("layer")["jaccard"]
    assert sets[1] == sets[2] == 0.5
    assert np.isnan(sets[0])
    words = ss.describe(found)
    assert "Of 3 massive features before, 2 (7, 57) are kept and 1 (29) is lost; 1 (11)" in words


def test_what_the_record_does_not_hold_is_a_limit() -> None:
    """A feature that no token holds is at most the smallest that every token holds."""
    after = clips_record(replace(AFTER, features=((7, 400.0), (57, 250.0)), silent=(29,)))
    found = ss.compare(clips_record(), after)
    row = found.features.loc[(found.features["layer"] == 1) & (found.features["feature"] == 29)]
    smallest = np.abs(after["top_value"].sel(layer=1).values).min(-1)
    assert row["magnitude_after"].item() == pytest.approx(np.nanmax(smallest, 1).mean())
    assert row["at_most_after"].item()
    assert not row["at_most_before"].item()
    assert "Feature 29 falls from 330 to at most" in ss.describe(found)


def test_a_sink_that_moves_by_one_token() -> None:
    found = ss.compare(clips_record(), clips_record(replace(AFTER, sink="<video>")))
    own = over_layers(found.sink_tally).set_index("label")
    assert own.loc["</audio>", ["kept", "lost", "new"]].tolist() == [0, 3, 0]
    assert own.loc["<video>", ["kept", "lost", "new"]].tolist() == [0, 0, 3]
    lost = found.sinks.loc[found.sinks["status"] == "lost"]
    new = found.sinks.loc[found.sinks["status"] == "new"]
    assert (new["token"].to_numpy() - lost["token"].to_numpy() == 1).all()
    assert sorted(set(lost["layer"])) == [2, 3]
    assert (lost["alpha_before"] > 0.3).all()
    assert (lost["alpha_after"] < 0.3).all()
    whole = own.loc[own.index.isna()].set_index("segment").loc["delimiter"]
    assert whole[["kept", "lost", "new", "clips_before"]].tolist() == [0, 3, 3, 3]
    assert "The sink on '</audio>' is gone in 3 of 3 clips" in ss.describe(found)
    assert "The sink on '<video>' is new in 3 clips" in ss.describe(found)


def test_a_sink_that_moves_to_another_layer_is_kept() -> None:
    found = ss.compare(clips_record(), clips_record(replace(AFTER, layers=(0, 1))))
    tally = found.sink_tally.set_index(["label", "layer"]).loc["</audio>"]
    rows = {layer: row[["kept", "lost", "new"]].tolist() for layer, row in tally.iterrows()}
    assert [rows[layer] for layer in (1, 2, 3)] == [[0, 0, 3], [3, 0, 0], [0, 3, 0]]
    over = over_layers(found.sink_tally).set_index("label").loc["</audio>"]
    assert over[["kept", "lost", "new"]].tolist() == [3, 0, 0]
    assert over[["layers_before", "layers_after"]].tolist() == ["2-3", "1-2"]
    assert found.layers["clips_before"].tolist() == [0, 3, 3, 0]
    assert found.layers["clips_after"].tolist() == [3, 3, 0, 0]
    assert found.layers["tokens_before"].tolist() == [0, 9, 9, 0]
    assert "layers 1-2 (0-based) before and in layers 0-1" in ss.describe(found)


def test_a_direction_that_is_turned() -> None:
    before, after = clips_record(), clips_record(replace(AFTER, twin=""))
    found = ss.compare(before, after)
    twin = found.similarity.loc[found.similarity["label"] == "a3"]
    assert len(twin) == 3 * 4
    assert twin["cosine_before"].to_numpy() == pytest.approx(1)
    for row in twin.to_dict("records"):
        cosine = after["bos_cosine"].sel(layer=row["layer"]).values[row["sample"], row["token"]]
        assert row["cosine_after"] == pytest.approx(float(cosine))
    others = found.similarity.loc[found.similarity["label"] != "a3", "cosine_change"]
    assert others.abs().max() == 0
    assert effect(found, "twins")[["before", "after", "change"]].tolist() == [2, 1, -1]
    summary = found.similarity_summary.set_index(["layer", "segment"])
    assert summary.loc[(0, "all"), "twins_before"] == 1
    assert summary.loc[(0, "all"), "twins_after"] == 0
    assert summary.loc[(0, "audio"), "change"] < 0
    assert summary.loc[(0, "video"), "change"] == 0
    assert summary.loc[(0, "all"), "tokens"] == sum(len(one) - 1 for one in before.layouts)
    pairs = zip(after["bos_cosine"].sel(layer=1).values, after.layouts, strict=True)
    cosines = [values[: len(layout)][layout.mask("audio")] for values, layout in pairs]
    squares = np.mean([(own**2).mean() for own in cosines])
    assert summary.loc[(1, "audio"), "cos2_after"] == pytest.approx(squares)
    median = np.median(np.concatenate(cosines))
    assert summary.loc[(1, "audio"), "median_after"] == pytest.approx(median)


def test_mean_cos2_is_that_of_the_loss() -> None:
    """All blocks but the last, all tokens but BOS and the response."""
    record = clips_record()
    found = ss.compare(record, clips_record(replace(AFTER, twin="")))
    expected = []
    for sample, layout in enumerate(record.layouts):
        tokens = ~layout.mask("bos", "response")
        cosines = record["bos_cosine"].values[sample, :3, : len(layout)][:, tokens]
        expected.append((cosines**2).mean(1).mean())
    assert found.clips["mean_cos2_before"].to_numpy() == pytest.approx(np.array(expected))
    assert found.effects.attrs["loss_layers"] == [0, 1, 2]


def test_before_and_after_are_not_mixed_up() -> None:
    other = replace(AFTER, features=((7, 400.0), (11, 200.0)), sink="<video>", twin="v2")
    there = ss.compare(clips_record(), clips_record(other))
    back = ss.compare(clips_record(other), clips_record())
    swapped = {"kept": "kept", "lost": "new", "new": "lost"}
    for name, keys in (("features", ["layer", "feature"]), ("sinks", ["sample", "layer", "token"])):
        one, two = (getattr(found, name).sort_values(keys) for found in (there, back))
        assert one["status"].map(swapped).tolist() == two["status"].tolist()
        assert set(one["status"]) == set(swapped) if name == "features" else {"lost", "new"}
    for metric in there.effects["metric"]:
        one, two = effect(there, metric), effect(back, metric)
        assert two["change"] == pytest.approx(-one["change"])
        assert two[["low", "high"]].tolist() == pytest.approx([-one["high"], -one["low"]], abs=0.01)
        assert two["before"] == one["after"]


def test_interval_is_that_of_a_direct_computation() -> None:
    other = replace(AFTER, features=((7, 500.0),))
    before, after = clips_record(clips=range(6)), clips_record(other, clips=range(6))
    row = effect(ss.compare(before, after, draws=500, seed=3), "largest_ratio")
    moved = []
    for i in range(6):
        sides = [ss.find_massive_activations(r.sample(i))["ratio"].max() for r in (before, after)]
        moved.append(sides[1] - sides[0])
    drawn = [np.repeat(moved, counts).mean() for counts in bootstrap_weights(6, draws=500, seed=3)]
    assert row["change"] == pytest.approx(np.mean(moved))
    assert row[["low", "high"]].tolist() == pytest.approx(
        np.quantile(drawn, [0.025, 0.975]).tolist()
    )
    assert row["effect_size"] == pytest.approx(np.mean(moved) / np.std(moved, ddof=1))


def test_one_clip_has_no_interval() -> None:
    found = ss.compare(clip_record(BASE, 0), clip_record(replace(AFTER, sink=""), 0))
    assert found.effects[["low", "high", "effect_size"]].isna().all(axis=None)
    assert found.features[["low", "high"]].isna().all(axis=None)
    assert found.feature_sets[["jaccard_low", "jaccard_high"]].isna().all(axis=None)
    words = ss.describe(found)
    assert "95 % interval" not in words
    assert "One clip says nothing of others" in words


def test_padding_changes_nothing() -> None:
    """A clip compared alone gives the numbers that it has among longer ones."""
    other = replace(AFTER, features=((7, 200.0),), sink="<video>", twin="")
    pair = clips_record(), clips_record(other)
    found = ss.compare(*pair)
    for sample in range(3):
        alone = ss.compare(*(record.sample(sample) for record in pair))
        own = found.clips.loc[[sample]].drop(columns="sample").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, alone.clips.drop(columns="sample"), check_dtype=False)


def test_attention_between_segments() -> None:
    other = replace(AFTER, sink="")
    pair = clips_record(), clips_record(other)
    found = ss.compare(*pair).attention
    sides = [ss.segment_attention(record) for record in pair]
    keys = ["layer", "query_segment", "key_segment"]
    means = [side.groupby(keys)["attention"].mean() for side in sides]
    own = found.set_index(keys).loc[(3, "instruction", "delimiter")]
    for name, mean in zip(("before", "after"), means, strict=True):
        assert own[name] == pytest.approx(mean.loc[(3, "instruction", "delimiter")])
    assert own["high"] < 0
    assert own["clips"] == 3


def test_tables_say_their_rule() -> None:
    record = clips_record()
    found = ss.compare(record, record, thresholds=ss.Thresholds(ratio=100, threshold=0.2))
    assert set(found.tables) == set(MEANING)
    for table in found.tables.values():
        assert table.attrs["ratio_threshold"] == 100
        assert table.attrs["threshold"] == 0.2
    assert found.thresholds.ratio == 100


def test_nothing_massive_and_no_sink() -> None:
    plan = replace(BASE, features=(), sink="", twin="")
    record: Record = merge([clip_record(plan, clip) for clip in (0, 1)])
    found = ss.compare(record, record)
    assert found.features.empty
    assert found.sink_tally.empty
    assert found.feature_sets["jaccard"].isna().all()
    words = ss.describe(found)
    assert "Neither model has a massive activation" in words
    assert "No token other than BOS is a sink" in words


def test_words_of_bos_and_of_many_labels() -> None:
    one, other = clips_record(), clips_record(replace(AFTER, sink="</video>"))
    low = ss.Thresholds(threshold=0.02, min_queries=1)
    found = ss.compare(one, other, thresholds=low)
    words = ss.describe(found)
    assert "BOS is a sink in 3 of 3 clips before and in 3 after" in words
    assert "Sinks on audio tokens: " in words
    assert "'a4'" not in words
    audio = found.sinks.loc[found.sinks["segment"] == "audio"]
    tokens = audio.groupby(["sample", "token"])["status"].agg(set)
    lost = sum(1 for states in tokens if states == {"lost"})
    row = over_layers(found.sink_tally)
    row = row.loc[(row["segment"] == "audio") & row["label"].isna()].iloc[0]
    assert row["lost"] == lost
    assert row[["kept", "lost", "new"]].sum() == len(tokens)
    lines = ss.describe(found.effects).splitlines()
    assert len(lines) == len(found.effects)
    assert lines[0].startswith("largest sink rate of BOS over layers")


def test_without_bos() -> None:
    pair = [merge([clip_record(plan, c, has_bos=False) for c in (0, 1)]) for plan in (BASE, AFTER)]
    found = ss.compare(*pair)
    assert "bos_alpha" not in set(found.effects["metric"])
    assert "There is no BOS" in ss.describe(found)
    assert "Twins of the reference token" in ss.describe(found)
