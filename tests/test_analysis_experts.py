"""Routing that is known by construction: even, one-sided, of sinks; and where numbers are moved."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from sinkscope.analysis.experts import expert_balance, expert_usage, normalised_entropy
from sinkscope.analysis.finding import find_sinks
from sinkscope.analysis.routing import routed_tokens
from sinkscope.analysis.sink_experts import sink_experts
from sinkscope.analysis.summary import sink_summary
from sinkscope.errors import InputError, SiteError
from sinkscope.layout import TokenLayout
from sinkscope.record import Record
from tests.planted_rates import clip_record, rate_record

E = 6
PAIR = (4, 2)


def spread(chosen: np.ndarray) -> np.ndarray:
    """Probabilities whose largest are at the chosen experts ``[token, choice]``, the first most."""
    probabilities = np.full((len(chosen), E), 0.01)
    for rank in range(chosen.shape[1]):
        probabilities[np.arange(len(chosen)), chosen[:, rank]] = 0.4 - 0.1 * rank
    return probabilities / probabilities.sum(1, keepdims=True)


def in_turn(layout: TokenLayout, layer: int, k: int = 2) -> np.ndarray:
    """Every token's choice moves on by k: all experts are chosen equally often."""
    tokens = np.arange(len(layout))
    return spread((tokens[:, None] * k + np.arange(k) + layer) % E)


def three_in_turn(layout: TokenLayout, layer: int) -> np.ndarray:
    """Even where the number of tokens is even."""
    return in_turn(layout, layer, k=3)


def one_each(layout: TokenLayout, layer: int) -> np.ndarray:
    """Audio tokens get expert 1, video tokens 4, all others 0; layer 1 one more."""
    wanted = {"audio": 1, "video": 4}
    return spread(np.array([[wanted.get(s, 0) + layer] for s in layout.segments]))


def planted(routing, top_k: int = 2, clips: int = 3, **given) -> Record:  # type: ignore[no-untyped-def]
    return rate_record(PAIR, clips=clips, routing=routing, mome={"top_k": top_k}, **given)


def test_even_routing_has_the_closed_form() -> None:
    """74 tokens, 3 choices each: 37 of every expert."""
    record = clip_record(PAIR, routing=three_in_turn, mome={"top_k": 3})
    assert len(record.layouts[0]) == 74
    table = expert_balance(record)
    whole = table.loc[table["segment"] == "all"]
    assert whole["layer"].tolist() == [0, 1]
    assert whole["usage_entropy"].to_numpy() == pytest.approx(1)
    assert whole["balance"].to_numpy() == pytest.approx(1)
    assert whole["max_over_mean"].to_numpy() == pytest.approx(1)
    assert whole["unused"].tolist() == [0, 0]
    own = normalised_entropy(spread(np.array([[0, 1, 2]])))[0]
    assert whole["token_entropy"].to_numpy() == pytest.approx(own, abs=1e-6)
    usage = expert_usage(record)
    assert usage.loc[usage["segment"] == "all", "usage"].to_numpy() == pytest.approx(1 / E)


def test_one_expert_for_all_is_the_other_end() -> None:
    record = planted(one_each, top_k=1)
    table = expert_balance(record).set_index(["layer", "segment"])
    peak = spread(np.array([[1]]))[0, 1]
    assert table.loc[(0, "audio"), "usage_entropy"] == pytest.approx(0, abs=1e-12)
    assert table.loc[(0, "audio"), "balance"] == pytest.approx(E * peak, rel=1e-6)
    assert table.loc[(0, "audio"), "max_over_mean"] == E
    assert table.loc[(0, "audio"), "unused"] == E - 1


def test_usage_is_that_of_the_segment_and_layer() -> None:
    usage = expert_usage(planted(one_each, top_k=1)).set_index(["layer", "segment", "expert"])
    for layer in (0, 1):
        assert usage.loc[(layer, "audio", 1 + layer), "usage"] == 1
        assert usage.loc[(layer, "video", 4 + layer), "usage"] == 1
        assert usage.loc[(layer, "video", 1 + layer), "usage"] == 0
        assert usage.loc[(layer, "bos", layer), "tokens"] == 3
    audio, video, others = 3 * 20, 3 * 40, 3 * 14
    whole = usage.loc[(0, "all", 1)]
    assert whole["usage"] == pytest.approx(audio / (audio + video + others))
    assert whole["tokens"] == audio + video + others


def test_shares_sum_to_what_they_say() -> None:
    usage = expert_usage(planted(in_turn))
    sums = usage.groupby(["layer", "segment"])[["usage", "chosen", "gate", "probability"]].sum()
    assert sums["usage"].to_numpy() == pytest.approx(1)
    assert sums["chosen"].to_numpy() == pytest.approx(2)
    assert sums["gate"].to_numpy() == pytest.approx(1)
    assert sums["probability"].to_numpy() == pytest.approx(1, abs=1e-5)


def test_gates_follow_the_settings() -> None:
    plain = clip_record(PAIR, routing=in_turn, mome={"top_k": 2, "renormalise": False})
    scaled = clip_record(PAIR, routing=in_turn, mome={"top_k": 2, "renormalise": True})
    assert routed_tokens(scaled).gates.sum(-1) == pytest.approx(1)
    gates = routed_tokens(plain).gates
    assert gates.sum(-1) == pytest.approx((0.4 + 0.3) / (0.7 + 0.04), rel=1e-5)
    assert ((gates > 0).sum(-1) == 2).all()


def test_samples_of_other_lengths_do_not_leak() -> None:
    """The second clip is shorter: its missing tokens are no tokens."""
    from sinkscope.record import merge

    long, short = (
        clip_record(PAIR, frames=frames, seed=i, routing=one_each, mome={"top_k": 1})
        for i, frames in enumerate((80, 40))
    )
    both = expert_usage(merge([long, short])).set_index(["layer", "segment", "expert"])
    assert both.loc[(0, "audio", 1), "tokens"] == 30
    assert both.loc[(0, "audio", 1), "usage"] == 1
    assert not routed_tokens(merge([long, short])).chosen[1, :, len(short.layouts[0]) :].any()


def to_three(layout: TokenLayout, layer: int) -> np.ndarray:
    """Experts in turn, but the planted sinks get 3 first."""
    chosen = (np.arange(len(layout))[:, None] * 2 + np.arange(2)) % E
    for token, label in enumerate(layout.labels):
        if label in ("a2", "a9", "a15"):
            chosen[token] = (3, (token * 2) % E if (token * 2) % E != 3 else 0)
    return spread(chosen)


def sinks_of(record: Record):  # type: ignore[no-untyped-def]
    return find_sinks(record, threshold=0.1, min_heads=1.0)


def test_sinks_that_share_an_expert_are_found() -> None:
    record = planted(to_three, sinks=("a2", "a9", "a15"))
    found = sinks_of(record)
    assert set(found["label"]) == {"a2", "a9", "a15"}
    table = sink_experts(record, found)
    assert table["layer"].tolist() == [0, 1]
    assert table["expert"].tolist() == [3, 3]
    assert table["sinks"].tolist() == [9, 9]
    assert table["share"].tolist() == [1, 1]
    assert (table["control_high"] < 0.9).all()
    assert (table["p"] < 0.01).all()
    assert (table["anywhere_p"] < 0.01).all()


def test_sinks_routed_like_the_others_are_not() -> None:
    record = planted(in_turn, sinks=("a2", "a3", "a10"))
    table = sink_experts(record, sinks_of(record))
    assert (table["p"] > 0.2).all()
    assert table["share"].max() < 0.9


def test_a_segment_that_shares_its_expert_anyway_is_told_from_sinks() -> None:
    """All audio tokens get expert 1: sinks share it, but so does the control."""
    record = planted(one_each, top_k=1, sinks=("a2", "a9"))
    table = sink_experts(record, sinks_of(record))
    assert table["share"].tolist() == [1, 1]
    assert table["control"].tolist() == [1, 1]
    assert table["p"].tolist() == [1, 1]
    assert (table["anywhere_p"] < 0.2).all()


def test_bos_has_only_the_second_control() -> None:
    record = planted(one_each, top_k=1, sinks=("<s>",))
    row = sink_experts(record, sinks_of(record)).iloc[0]
    assert np.isnan(row["control"])
    assert np.isnan(row["p"])
    assert row["anywhere"] < 1
    assert row["expert"] == 0


def test_equal_seeds_give_equal_draws() -> None:
    record = planted(to_three, sinks=("a2", "a9"))
    one, again, other = (sink_experts(record, sinks_of(record), seed=s) for s in (0, 0, 1))
    assert one.equals(again)
    assert not one.equals(other)


def test_wrong_input_is_refused() -> None:
    record = planted(one_each, top_k=1)
    with pytest.raises(SiteError, match="router"):
        expert_usage(rate_record(PAIR))
    for mome in ({}, {"top_k": 9}):
        with pytest.raises(InputError, match="how many of them a token gets"):
            expert_usage(replace(record, provenance={**record.provenance, "mome": mome}))
    massive = find_sinks(record)
    massive.attrs["table"] = "massive_activations"
    for table in (expert_usage(record), massive, sink_summary(record)):
        with pytest.raises(InputError, match="give what find_sinks returned"):
            sink_experts(record, table)
    other = find_sinks(planted(one_each, clips=4, sinks=("a2",)), threshold=0.1)
    with pytest.raises(InputError, match="another record"):
        sink_experts(record, other)
    coarse = find_sinks(rate_record((16, 5), sinks=("<s>",)), threshold=0.1)
    with pytest.raises(InputError, match="another record"):
        sink_experts(record, coarse)
    moved = sinks_of(planted(one_each, sinks=("a2",)))
    moved["token"] += 1
    with pytest.raises(InputError, match="sample 0 has no token 5 'a2'"):
        sink_experts(record, moved)
    with pytest.raises(InputError, match="seed is -1"):
        sink_experts(record, sinks_of(record), seed=-1)


def test_a_sink_that_is_listed_twice_counts_once() -> None:
    record = planted(to_three, sinks=("a2", "a9"))
    found = sinks_of(record)
    twice = pd.concat([found, found], ignore_index=True)
    twice.attrs = found.attrs
    assert sink_experts(record, twice).equals(sink_experts(record, found))


def test_the_axes_may_come_in_any_order() -> None:
    record = planted(one_each, top_k=1)
    turned = record.dataset.assign(
        router=record.dataset["router"].transpose("sample", "token", "expert", "layer")
    )
    assert isinstance(turned, xr.Dataset)
    assert expert_usage(replace(record, dataset=turned)).equals(expert_usage(record))
