"""What the tables on experts and rates say in words: their numbers, nothing more is claimed."""

import numpy as np
import pytest

import sinkscope as ss
from sinkscope.layout import TokenLayout
from tests.planted_rates import rate_record

FINE, COARSE = (4, 2), (16, 5)
E = 6


def routed(layout: TokenLayout, layer: int) -> np.ndarray:
    """Expert = layer, but 5 for audio."""
    probabilities = np.full((len(layout), E), 0.02)
    experts = np.where(layout.mask("audio"), 5, layer)
    probabilities[np.arange(len(layout)), experts] = 0.9
    return probabilities


@pytest.fixture(scope="module")
def records() -> dict:
    return {
        pair: rate_record(pair, clips=8, routing=routed, mome={"top_k": 1}, sinks=sinks)
        for pair, sinks in ((FINE, ("a5", "</audio>")), (COARSE, ("a1", "</audio>")))
    }


def test_usage_and_balance(records: dict) -> None:
    words = ss.describe(ss.expert_usage(records[FINE]))
    assert "Of 6 routed experts, 1 a token" in words
    assert "expert 1 in layer 1 (73%)" in words
    table = ss.expert_usage(records[FINE])
    audio = table.loc[table["segment"] == "audio"]
    audio.attrs = table.attrs
    assert "choices of audio tokens" in ss.describe(audio)
    balance = ss.describe(ss.expert_balance(records[FINE]))
    assert balance.startswith("Over 2 layers, all tokens: expert usage")
    assert "no token of their layer chose: 8 of 2 × 6" in balance


def test_sinks_are_compared_with_tokens_of_their_segment(records: dict) -> None:
    record = records[FINE]
    words = ss.describe(ss.sink_experts(record, ss.find_sinks(record)))
    assert "100% of the 8 audio sinks get expert 5, of other audio tokens 100%" in words
    assert "no more than by chance" in words
    none = ss.find_sinks(record).iloc[:0]
    assert "no routing of sinks to tell" in ss.describe(ss.sink_experts(record, none))


def test_the_claim_comes_with_its_caveat_and_what_clips_allow(records: dict) -> None:
    words = ss.describe(ss.usage_across_rates(records, segments=["video"], draws=100))
    assert "as reported" in words
    assert "0.00 between rates and 1.00 between layers" in words
    assert "never trained" in words
    audio = ss.describe(ss.usage_across_rates(records, segments=["audio"], draws=100))
    assert "not established" in audio
    assert "never trained" not in audio
    few = {pair: record.sample(0) for pair, record in records.items()}
    assert "not testable, one clip has no interval" in ss.describe(ss.usage_across_rates(few))
    assert "With 1 clip and 10 draws no p" in ss.describe(ss.usage_distances(few, draws=10))


def test_many_comparisons_are_corrected_and_counted(records: dict) -> None:
    table = ss.usage_distances(records, segments=["video"], draws=2000)
    words = ss.describe(table)
    assert "in 2 of 2 comparisons, in 2 after Holm's correction for all 4" in words
    table["p"] = [1.0, 1.0, 0.02, 0.04]
    assert "in 2 of 2 comparisons, in 0 after Holm's correction for all 4" in ss.describe(table)
    said = ss.describe(ss.usage_across_rates(records, segments=["video"], draws=100))
    assert "over 2 layers and 2 pairs of rates; the intervals are over clips" in said


def test_rates_and_sinks(records: dict) -> None:
    words = ss.describe(ss.rate_similarity(records[FINE], records[COARSE]))
    assert words.startswith("Audio at rates 4 and 16")
    assert "the ratio of the rates 4." in words
    assert "with the tokens of another clip" in words
    flat = ss.rate_similarity(records[FINE], records[COARSE])
    flat["slope"] = np.nan
    assert "nan" not in ss.describe(flat)
    sinks = ss.sinks_by_rate(records)
    assert "(16, 5) 'a1' ×8, '</audio>' ×8" in ss.describe(sinks)
    assert "(4, 2) 2.7% of 592 tokens, 2.0 a clip" in ss.describe(ss.sink_share(records, sinks))
    agreement = ss.describe(ss.sink_agreement(records, sinks))
    assert "Of audio and video sinks, 100% have a sink at the same place" in agreement
