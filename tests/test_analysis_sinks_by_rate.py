"""Sinks at several rates: planted at one place they agree, elsewhere not; chance is told."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sinkscope.analysis.sink_agreement import sink_agreement
from sinkscope.analysis.sink_tables import sinks_at
from sinkscope.analysis.sinks_by_rate import sink_share, sinks_by_rate
from sinkscope.analysis.words import describe
from sinkscope.errors import InputError
from tests.planted_rates import rate_record

FINE, COARSE = (4, 2), (16, 5)


def records(fine: tuple[str, ...], coarse: tuple[str, ...], clips: int = 3) -> dict:
    return {
        FINE: rate_record(FINE, clips=clips, sinks=fine),
        COARSE: rate_record(COARSE, clips=clips, sinks=coarse),
    }


def test_sinks_of_every_rate_are_listed() -> None:
    found = sinks_by_rate(records(("a5", "</audio>"), ("a1",)))
    assert set(sinks_at(found, FINE)["label"]) == {"a5", "</audio>"}
    assert set(sinks_at(found, COARSE)["label"]) == {"a1"}
    assert found.attrs["pairs"] == [FINE, COARSE]
    row = sinks_at(found, COARSE).iloc[0]
    assert (row["start"], row["end"]) == pytest.approx((0.64, 1.28))
    both = found.groupby(["audio_rate", "sample"]).size()
    assert both.loc[4].tolist() == [2, 2, 2]
    assert both.loc[16].tolist() == [1, 1, 1]


def test_no_sinks_at_a_rate_is_no_error() -> None:
    found = records((), ("a1",))
    table = sinks_by_rate(found, threshold=0.9)
    assert sinks_at(table, FINE).empty
    share = sink_share(found, table).set_index(["audio_rate", "segment"])
    assert share.loc[(4, "audio"), "sinks"] == 0
    none = sinks_by_rate(records((), ()), threshold=0.9)
    assert none.empty
    assert sink_agreement(found, none).empty


def agreement(fine: tuple[str, ...], coarse: tuple[str, ...]) -> dict:
    found = records(fine, coarse)
    table = sink_agreement(found, sinks_by_rate(found))
    return {
        (row.audio_rate, row.segment): (row.agree, row.control, row.p) for row in table.itertuples()
    }


def test_the_same_seconds_agree_and_a_token_beside_does_not() -> None:
    """Fine a5 is 0.80 to 0.96 s, inside coarse a1 (0.64 to 1.28 s); coarse a2 begins at 1.28 s."""
    there = agreement(("a5",), ("a1",))
    assert there[4, "audio"][0] == 1
    assert there[16, "audio"][0] == 1
    assert there[4, "audio"][2] < 0.05
    beside = agreement(("a5",), ("a2",))
    assert beside[4, "audio"][0] == beside[16, "audio"][0] == 0
    assert beside[4, "audio"][2] == 1


def test_the_control_is_the_share_of_all_tokens_that_lie_near() -> None:
    """Of 20 fine audio tokens 4 lie within half a coarse token of the middle of a1."""
    _, control, p = agreement(("a5",), ("a1",))[4, "audio"]
    assert control == pytest.approx(4 / 20, abs=0.03)
    assert p == pytest.approx((4 / 20) ** 3, abs=0.008)


def test_tokens_without_seconds_agree_by_name() -> None:
    same = agreement(("</audio>",), ("</audio>",))
    assert same[4, "delimiter"][0] == 1
    assert same[4, "delimiter"][1] == pytest.approx(0.25, abs=0.03)
    other = agreement(("</audio>",), ("<video>",))
    assert other[4, "delimiter"][0] == other[16, "delimiter"][0] == 0


def test_an_audio_sink_does_not_agree_with_a_video_sink_of_the_same_second() -> None:
    assert agreement(("a5",), ("v1",))[4, "audio"][0] == 0


def test_share_grows_where_tokens_get_fewer() -> None:
    found = records(("a5",), ("a1",))
    share = sink_share(found, sinks_by_rate(found)).set_index(["audio_rate", "segment"])
    assert share.loc[(4, "audio"), "share"] == pytest.approx(1 / 20)
    assert share.loc[(16, "audio"), "share"] == pytest.approx(1 / 5)
    assert share.loc[(16, "audio"), "sinks_a_clip"] == share.loc[(4, "audio"), "sinks_a_clip"] == 1
    assert share.loc[(4, "audio"), ["low", "high"]].tolist() == pytest.approx([1 / 20] * 2)
    assert share.loc[(4, "video"), "share"] == 0


def test_one_clip_has_no_interval() -> None:
    found = records(("a5",), ("a1",), clips=1)
    assert np.isnan(sink_share(found, sinks_by_rate(found))["low"]).all()


def test_wrong_input_is_refused() -> None:
    found = records(("a5",), ("a1",))
    with pytest.raises(InputError, match="at least two"):
        sinks_by_rate({FINE: found[FINE]})
    with pytest.raises(InputError, match="other clips"):
        sinks_by_rate({FINE: found[FINE], COARSE: rate_record(COARSE, clips=2)})
    with pytest.raises(InputError, match="sinks_by_rate returned"):
        sink_agreement(found, sink_share(found, sinks_by_rate(found)))


def test_sinks_of_other_pairs_or_clips_are_refused() -> None:
    found = records(("a5",), ("a1",))
    sinks = sinks_by_rate(found)
    others = {pair: rate_record(pair) for pair in ((4, 5), (16, 2))}
    for use in (sink_share, sink_agreement):
        with pytest.raises(InputError, match=r"a record is of \(4, 5\)"):
            use(others, sinks)
    late = sinks.copy()
    late["token"] = 500
    with pytest.raises(InputError, match="no token 500"):
        sink_share(found, late)
    with pytest.raises(InputError, match="seed is -1"):
        sink_agreement(found, sinks, seed=-1)
    with pytest.raises(InputError, match="another model"):
        sink_share(
            {
                pair: replace(one, provenance={**one.provenance, "model_hash": "1"})
                for pair, one in found.items()
            },
            sinks,
        )


def test_a_sink_that_is_listed_twice_counts_once() -> None:
    found = records(("a5",), ("a1",))
    sinks = sinks_by_rate(found)
    twice = pd.concat([sinks, sinks], ignore_index=True)
    twice.attrs = sinks.attrs
    assert sink_share(found, twice).equals(sink_share(found, sinks))
    assert sink_agreement(found, twice).equals(sink_agreement(found, sinks))


def test_the_sentence_leaves_out_what_says_nothing() -> None:
    """Of four pairs, BOS agrees always, and half of the audio comparisons are at one rate."""
    pairs = [(a, v) for a in (4, 16) for v in (2, 5)]
    marks = {4: ("a5", "<s>"), 16: ("a2", "<s>")}
    found = {pair: rate_record(pair, sinks=marks[pair[0]]) for pair in pairs}
    table = sink_agreement(found, sinks_by_rate(found))
    assert table.loc[table["segment"] == "bos", "alone"].all()
    assert not table.loc[table["segment"] == "audio", "alone"].any()
    assert table.loc[table["same_rate"].fillna(False), "agree"].tolist() == [1.0] * 4
    words = describe(table)
    assert "Of audio and video sinks, 0% have" in words
    assert "over 8 comparisons of two rates; 4 at one rate of their own left out" in words
    assert "text) to compare; 12 with one token of the segment a clip left out" in words
