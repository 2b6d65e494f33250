"""Attention between segments, and what tokens are: closed forms and planted differences."""

import numpy as np
import pandas as pd
import pytest

import sinkscope.analysis as analysis
from sinkscope.analysis import describe, find_sinks, low_meaning, segment_attention, twins
from sinkscope.errors import InputError
from sinkscope.glossary import SEGMENTS
from sinkscope.layout import TokenLayout
from sinkscope.record import Record, merge
from tests.fake_records import av_layout, fake_av_record, record_from, uniform_map


def by_hand(pattern: np.ndarray, layout: TokenLayout, query: str, key: str) -> float:
    return pattern[:, layout.mask(query)][:, :, layout.mask(key)].sum(-1).mean()


def test_the_shares_are_those_of_the_whole_map() -> None:
    record = fake_av_record(60)
    layout, maps = record.layouts[0], record["pattern"].values[0].astype(float)
    table = segment_attention(record)
    assert set(table["layer"]) == set(range(6))
    for row in table.itertuples():
        expected = by_hand(maps[row.layer], layout, row.query_segment, row.key_segment)
        assert row.attention == pytest.approx(expected, abs=1e-6)
    sums = table.groupby(["layer", "query_segment"])["attention"].sum()
    np.testing.assert_allclose(sums, 1, atol=1e-6)
    assert (table["missing"] == 0).all()
    pairs = set(zip(table["query_segment"], table["key_segment"], strict=True))
    assert ("audio", "video") not in pairs  # audio comes first and cannot see it
    assert ("video", "audio") in pairs
    order = [*zip(table["layer"], table["query_segment"].map(SEGMENTS.index), strict=True)]
    assert order == sorted(order)


def test_a_row_a_head_on_request() -> None:
    record = fake_av_record(60)
    heads = segment_attention(record, heads=True)
    keys = ["layer", "query_segment", "key_segment"]
    mean = heads.groupby(keys)[["attention", "entropy"]].mean()
    whole = segment_attention(record).set_index(keys)[["attention", "entropy"]].sort_index()
    pd.testing.assert_frame_equal(mean, whole, check_names=False, check_exact=False, atol=1e-6)
    assert "head" not in segment_attention(record)
    last = heads[(heads["layer"] == 3) & (heads["query_segment"] == "response")]
    to_bos = last[last["key_segment"] == "bos"].set_index("head")["attention"]
    assert to_bos.loc[[0, 1, 2]].min() > 10 * to_bos.loc[3]


def test_even_attention_has_no_preference() -> None:
    layout = av_layout(60)
    states = np.random.default_rng(0).normal(size=(2, 60, 16))
    pattern = np.stack([[uniform_map(60)]] * 2)
    table = segment_attention(record_from(pattern, states, layout))
    table = table[table["layer"] == 1]
    ends = layout.mask("response").nonzero()[0]
    row = table.set_index(["query_segment", "key_segment"]).loc[("response", "audio")]
    n_audio = layout.mask("audio").sum()
    assert row["attention"] == pytest.approx(np.mean(n_audio / (ends + 1)), abs=1e-6)
    assert row["visible_share"] == pytest.approx(n_audio * len(ends) / (ends + 1).sum())
    seen = table[table["query_segment"] != "bos"]
    np.testing.assert_allclose(seen["entropy_share"], 1, atol=1e-6)
    assert row["entropy"] == pytest.approx(np.log(ends + 1).mean(), abs=1e-6)
    assert table.loc[table["query_segment"] == "bos", "entropy_share"].isna().all()


def test_attention_that_no_key_receives_is_reported() -> None:
    layout = av_layout(60)
    states = np.random.default_rng(0).normal(size=(1, 60, 16))
    pattern = 0.75 * uniform_map(60)[None, None]
    table = segment_attention(record_from(pattern, states, layout))
    np.testing.assert_allclose(table["missing"], 0.25, atol=1e-6)


def test_a_merged_record_gives_each_samples_table() -> None:
    short, long = fake_av_record(60), fake_av_record(83, seed=2)
    table = segment_attention(merge([short, long]))
    for sample, record in enumerate([short, long]):
        own = table[table["sample"] == sample].drop(columns="sample").reset_index(drop=True)
        alone = segment_attention(record).drop(columns="sample")
        pd.testing.assert_frame_equal(own, alone, check_exact=False, atol=1e-6)


def silent_sinks(record: Record, *, tokens: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"sample": [0] * len(tokens), "token": tokens})


def test_sinks_in_silence_are_told_from_sinks_anywhere() -> None:
    record = fake_av_record(300)
    layout = record.layouts[0]
    silence = np.flatnonzero(layout.descriptors["silence"] == 1)[:6].tolist()
    table = low_meaning(record, silent_sinks(record, tokens=silence)).set_index(
        ["segment", "measure"]
    )
    row = table.loc[("audio", "loudness_db")]
    assert (row["n_sinks"], row["mean_sinks"]) == (6, -60.0)
    others = layout.mask("audio") & ~np.isin(np.arange(len(layout)), silence)
    assert row["n_others"] == others.sum()
    loud = layout.descriptors["loudness_db"][others]
    assert row["mean_others"] == pytest.approx(loud.mean())
    assert row["median_others"] == pytest.approx(np.median(loud))
    delta = np.mean(loud < -60.0) - np.mean(loud > -60.0)
    assert row["effect"] == pytest.approx(delta)
    assert row["p"] < 0.001
    assert row["sentence"].startswith("Audio sinks are quieter: loudness -60.0 against")
    assert table.loc[("audio", "pause"), "mean_sinks"] == 1
    assert table.loc[("audio", "motion"), "sentence"].startswith("Not testable")
    spread = np.flatnonzero(layout.mask("audio"))[::12].tolist()
    chance = low_meaning(record, silent_sinks(record, tokens=spread))
    chance = chance.set_index(["segment", "measure"]).loc[("audio", "loudness_db")]
    assert chance["p"] > 0.05
    assert chance["sentence"].startswith("No difference established")


def test_loud_sinks_are_found_as_well_as_quiet_ones() -> None:
    record = fake_av_record(300)
    loudness = record.layouts[0].descriptors["loudness_db"]
    loudest = np.argsort(np.nan_to_num(loudness, nan=-100.0))[-8:].tolist()
    table = low_meaning(record, silent_sinks(record, tokens=loudest))
    row = table.set_index(["segment", "measure"]).loc[("audio", "loudness_db")]
    assert row["effect"] == 1
    assert row["p"] < 0.03
    assert row["sentence"].startswith("Audio sinks are louder")


def test_the_test_is_right_as_often_as_it_says() -> None:
    """Sinks drawn at random: p is below 0.2 in about a fifth of the draws."""
    record, rng = fake_av_record(300), np.random.default_rng(0)
    audio = np.flatnonzero(record.layouts[0].mask("audio"))
    small = 0
    for _ in range(100):
        tokens = rng.choice(audio, 5, replace=False).tolist()
        table = low_meaning(record, silent_sinks(record, tokens=tokens), permutations=200)
        small += table.loc[0, "p"] < 0.2
    assert 8 <= small <= 34


def test_a_loud_clip_with_more_sinks_is_no_evidence() -> None:
    """Pooled, the sinks look louder; within each clip they are like the rest."""
    rng = np.random.default_rng(0)
    records, rows = [], []
    for sample, (level, share) in enumerate([(-50.0, 0.05), (-10.0, 0.5)]):
        layout = av_layout(200)
        audio = np.flatnonzero(layout.mask("audio"))
        layout.descriptors["loudness_db"][audio] = level + rng.normal(0, 1, len(audio))
        pattern = uniform_map(200)[None, None]
        records.append(record_from(pattern, rng.normal(size=(1, 200, 8)), layout))
        chosen = rng.choice(audio, int(share * len(audio)), replace=False)
        rows += [{"sample": sample, "token": token} for token in chosen]
    table = low_meaning(merge(records), pd.DataFrame(rows)).set_index(["segment", "measure"])
    row = table.loc[("audio", "loudness_db")]
    assert row["difference"] > 10
    assert row["p"] > 0.05


def test_delimiters_are_counted_apart() -> None:
    record = fake_av_record(60)
    table = low_meaning(record, find_sinks(record))
    assert table.attrs["without_descriptors"] == {"bos": 1, "delimiter": 1}
    assert table["p"].isna().all()
    assert "Sinks that are neither sound nor picture: 1 bos, 1 delimiter." in describe(table)
    assert "Not testable" in describe(table)
    assert low_meaning(record, twins(record)).loc[0, "n_sinks"] == 1
    with pytest.raises(InputError, match="token 70 of sample 0"):
        low_meaning(record, silent_sinks(record, tokens=[70]))
    with pytest.raises(InputError, match="no columns sample and token"):
        low_meaning(record, pd.DataFrame({"token": [1]}))


def test_silence_without_sound_is_unknown() -> None:
    """An adapter may say False where there is no sound: that is not the same as loud."""
    record = fake_av_record(60)
    layout = record.layouts[0]
    audio = np.flatnonzero(layout.mask("audio"))
    layout.descriptors["loudness_db"][:] = np.nan
    layout.descriptors["silence"][:] = 0.0
    layout.descriptors["silence"][audio[3:6]] = 1.0
    table = low_meaning(record, silent_sinks(record, tokens=[int(audio[3])]))
    of_sound = table[table["measure"].isin(["silence", "loudness_db"])]
    assert of_sound[["n_sinks", "n_others"]].to_numpy().sum() == 0
    assert of_sound["p"].isna().all()


EVERY = {
    "find_sinks": analysis.find_sinks,
    "sink_summary": analysis.sink_summary,
    "sink_heads": analysis.sink_heads,
    "find_massive_activations": analysis.find_massive_activations,
    "massive_features": analysis.massive_features,
    "massive_layers": analysis.massive_layers,
    "bos_similarity": analysis.bos_similarity,
    "twins": analysis.twins,
    "segment_attention": analysis.segment_attention,
    "detector_agreement": analysis.detector_agreement,
}


def with_and_without_bos() -> Record:
    both = [fake_av_record(60), fake_av_record(71, has_bos=False, bos=False)]
    return merge(
        [
            Record(r.dataset, r.layouts, {**r.provenance, "prepend_bos": "as given"}, r.clips)
            for r in both
        ]
    )


@pytest.mark.parametrize("name", EVERY)
def test_every_table_is_pure_and_can_be_described_and_written(name: str, tmp_path) -> None:
    record = with_and_without_bos()
    before = record.dataset.copy(deep=True)
    table = EVERY[name](record)
    assert record.dataset.identical(before)
    assert len(table)
    assert table.attrs["subject"] == "fake-avsr"
    assert table.attrs["prepend_bos"] == "as given"
    assert table.attrs["bos_present"] == [True, False]
    assert describe(table).endswith((".", "!"))
    table.to_csv(tmp_path / "table.csv", index=False)
    assert pd.read_csv(tmp_path / "table.csv").columns.tolist() == table.columns.tolist()
    saved = Record.open(record.save(tmp_path / "record"))
    pd.testing.assert_frame_equal(EVERY[name](saved), table)


@pytest.mark.parametrize("name", EVERY)
def test_a_sample_of_one_token_breaks_nothing(name: str) -> None:
    states = np.ones((2, 1, 16))
    layout = TokenLayout.of_text(["<s>"], has_bos=True)
    record = record_from(np.ones((2, 2, 1, 1)), states, layout)
    table = EVERY[name](record)
    assert describe(table)


def test_a_table_that_lost_its_attrs_is_refused() -> None:
    with pytest.raises(InputError, match="does not say what it is"):
        describe(pd.DataFrame({"token": [1]}))
