"""Usage between rates and layers: planted to be the same, to be another, and shuffled."""

import numpy as np
import pytest

from sinkscope.analysis.distances import jensen_shannon, total_variation
from sinkscope.analysis.holm import holm
from sinkscope.analysis.tables import check_whole
from sinkscope.analysis.usage_across_rates import usage_across_rates
from sinkscope.analysis.usage_distances import usage_distances
from sinkscope.analysis.usages import usages_of
from sinkscope.analysis.words import describe
from sinkscope.errors import InputError, SiteError
from sinkscope.layout import TokenLayout
from sinkscope.record import Record, merge
from tests.planted_rates import clip_record, rate_record

E = 6
TOP = {"top_k": 1}
FINE, COARSE = (4, 2), (16, 5)


def one_hot(experts: np.ndarray) -> np.ndarray:
    probabilities = np.full((len(experts), E), 0.02)
    probabilities[np.arange(len(experts)), experts] = 0.9
    return probabilities


def by_layer(layout: TokenLayout, layer: int) -> np.ndarray:
    """The same at every rate, another expert in every layer."""
    return one_hot(np.full(len(layout), layer))


def by_rate(layout: TokenLayout, layer: int) -> np.ndarray:
    """One expert a rate, the same in every layer."""
    return one_hot(np.full(len(layout), 2 if layout.mask("audio").sum() > 10 else 5))


def by_chance(layout: TokenLayout, layer: int) -> np.ndarray:
    """No rate or layer has anything of its own."""
    return one_hot(np.random.default_rng(len(layout) + 17 * layer).integers(0, E, len(layout)))


def records(routing, clips: int = 8) -> dict:  # type: ignore[no-untyped-def]
    return {
        pair: rate_record(pair, clips=clips, routing=routing, mome={"top_k": 1})
        for pair in (FINE, COARSE)
    }


def test_distances_have_their_ends_and_a_known_middle() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.dirichlet(np.ones(5), (2, 3))
    assert total_variation(one, one) == pytest.approx(0)
    assert jensen_shannon(one, one) == pytest.approx(0, abs=1e-7)
    assert total_variation(one, other) == pytest.approx(total_variation(other, one))
    half = total_variation(np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.5, 0.5]))
    assert float(half) == 0.5
    js = jensen_shannon(np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.5, 0.5]))
    assert float(js) == pytest.approx(np.sqrt(0.5))
    assert (jensen_shannon(one, other) ** 2 <= total_variation(one, other) + 1e-12).all()


def test_one_expert_a_rate_is_as_far_as_can_be() -> None:
    table = usage_distances(records(by_rate), draws=200)
    rates, layers = (table.loc[table["kind"] == kind] for kind in ("rates", "layers"))
    assert rates["tv"].to_numpy() == pytest.approx(1)
    assert rates["js"].to_numpy() == pytest.approx(1)
    assert layers["tv"].to_numpy() == pytest.approx(0)
    assert (rates["control"] < 0.5).all()
    assert (rates["p"] < 0.05).all()
    assert (rates["sorted_tv"] == 0).all()
    verdict = usage_across_rates(records(by_rate), draws=200).set_index("segment")
    assert verdict.loc["all", "verdict"] == "not as reported"
    assert verdict.loc["audio", "difference"] == pytest.approx(-1)


def test_the_same_at_every_rate_and_another_in_every_layer_is_as_reported() -> None:
    table = usage_distances(records(by_layer), draws=200)
    rates, layers = (table.loc[table["kind"] == kind] for kind in ("rates", "layers"))
    assert rates["tv"].to_numpy() == pytest.approx(0)
    assert layers["tv"].to_numpy() == pytest.approx(1)
    assert rates["p"].to_numpy() == pytest.approx(1)
    summary = usage_across_rates(records(by_layer), draws=200)
    assert set(summary["verdict"]) == {"as reported"}
    assert summary["segment"].tolist() == ["all", "audio", "video"]


def test_what_the_labels_do_not_say_is_not_above_the_control() -> None:
    def noisy(layout: TokenLayout, layer: int) -> np.ndarray:
        return one_hot(rng.integers(0, E, len(layout)))

    rng = np.random.default_rng(3)
    table = usage_distances(records(noisy, clips=12), segments=["all"], draws=400)
    assert (table["tv"] > 0.01).all()
    assert table["p"].min() > 0.01
    assert table["p"].median() > 0.1
    summary = usage_across_rates(records(noisy, clips=12), segments=["all"], draws=400).iloc[0]
    assert summary["rates"] <= summary["rates_control_high"] * 1.1
    assert summary["verdict"] in ("not established", "partly")


def test_every_comparison_is_there_once() -> None:
    table = usage_distances(records(by_layer), draws=20, segments=["audio"])
    found = table[["kind", "layer", "other_layer", "audio_rate", "other_audio_rate"]]
    assert [tuple(row) for row in found.to_numpy()] == [
        ("rates", 0, 0, 4, 16),
        ("rates", 1, 1, 4, 16),
        ("layers", 0, 1, 4, 4),
        ("layers", 0, 1, 16, 16),
    ]


def test_the_mix_of_tokens_does_not_pass_for_routing() -> None:
    """Audio gets 1 and all else 0 at every rate; of all tokens, audio is 20/74 and 5/35."""

    def audio_only(layout: TokenLayout, layer: int) -> np.ndarray:
        return one_hot(layout.mask("audio").astype(int))

    found = records(audio_only)
    table = usage_distances(found, segments=["all"], draws=20)
    assert table["tv"].to_numpy() == pytest.approx(0, abs=1e-12)
    whole = usages_of(found, ["all"], where="here")[0].shares[..., 1]
    assert whole == pytest.approx((20 / (14 + 20 + 40) + 5 / (14 + 5 + 16)) / 2)


def test_a_rate_that_the_stream_does_not_have_is_no_contrast_of_it() -> None:
    """Four pairs; audio goes by its own rate, so that half of the pairs differ in no audio rate."""

    def by_audio(layout: TokenLayout, layer: int) -> np.ndarray:
        return one_hot(np.full(len(layout), 2 if layout.mask("audio").sum() > 10 else 5))

    pairs = [(a, v) for a in (4, 16) for v in (2, 5)]
    found = {pair: rate_record(pair, clips=6, routing=by_audio, mome=TOP) for pair in pairs}
    table = usage_distances(found, draws=50)
    between = table.loc[table["kind"] == "rates"].groupby(["segment", "same_rate"], dropna=False)
    assert between.size().loc[("audio", True)] == 2 * 2
    assert between.size().loc[("audio", False)] == 4 * 2
    assert between["tv"].mean().loc[("audio", True)] == 0
    assert between["tv"].mean().loc[("audio", False)] == 1
    assert table.loc[table["segment"] == "all", "same_rate"].isna().all()
    assert table.loc[table["kind"] == "layers", "same_rate"].isna().all()
    summary = usage_across_rates(found, draws=50).set_index("segment")
    assert summary.loc["audio", ["rates", "rates_compared"]].tolist() == pytest.approx([1, 8])
    assert summary.loc["video", "rates_compared"] == 8
    assert summary.loc["all", "rates_compared"] == 12
    assert summary.loc["all", "rates"] == pytest.approx(4 / 6)
    half = {pair: found[pair] for pair in pairs[:2]}
    own = usage_across_rates(half, draws=50)
    row = own.set_index("segment").loc["audio"]
    assert row["verdict"] == "not testable"
    assert np.isnan(row[["rates", "rates_control", "difference"]].astype(float)).all()
    assert "the audio rate is the same at all pairs" in describe(own)


def mixed(pair: tuple[int, int], frames: tuple[int, ...]) -> Record:
    """Clips of several lengths: 12 frames are no token at audio rate 16."""
    given = {"routing": by_rate, "mome": TOP}
    return merge([clip_record(pair, seed=i, frames=n, **given) for i, n in enumerate(frames)])


def test_clips_without_the_segment_at_some_rate_do_not_count() -> None:
    frames = (80, 12, 80, 80, 12, 80, 80, 80)
    found = {pair: mixed(pair, frames) for pair in (FINE, COARSE)}
    table = usage_distances(found, draws=50)
    long = {pair: mixed(pair, (80,) * 8) for pair in (FINE, COARSE)}
    assert table.groupby("segment")["clips"].unique().map(list).to_dict() == {
        "all": [8], "audio": [6], "video": [8],
    }  # fmt: skip
    assert np.isfinite(table[["tv", "control", "p"]].to_numpy(float)).all()
    audio = table.loc[(table["segment"] == "audio") & (table["kind"] == "rates")]
    assert audio["tv"].to_numpy() == pytest.approx(1)
    assert usage_across_rates(found, draws=50).loc[1, "verdict"] == "not as reported"
    assert usage_across_rates(long, draws=50).loc[1, "clips"] == 8
    none = {pair: mixed(pair, (12, 12)) for pair in (FINE, COARSE)}
    assert set(usage_distances(none, draws=5)["segment"]) == {"all", "video"}
    with pytest.raises(InputError, match="no clip has any of the segments audio"):
        usage_distances(none, segments=["audio"])


def test_fewer_than_six_clips_are_not_judged() -> None:
    summary = usage_across_rates(records(by_layer, clips=5), draws=50)
    assert set(summary["verdict"]) == {"few clips"}
    assert np.isfinite(summary["difference_low"]).all()
    assert "too few clips to judge" in describe(summary)
    assert set(usage_across_rates(records(by_layer, clips=6), draws=50)["verdict"]) == {
        "as reported"
    }


def test_holm_is_that_of_the_definition() -> None:
    """By hand: 0.01 x 3, 0.03 x 2, and the largest not below the one before."""
    assert holm(np.array([0.03, 0.01, np.nan, 0.04])) == pytest.approx(
        [0.06, 0.03, np.nan, 0.06], nan_ok=True
    )
    assert holm(np.array([0.5, 0.9])).tolist() == [1.0, 1.0]


def test_one_clip_is_not_testable() -> None:
    summary = usage_across_rates(records(by_layer, clips=1), draws=20)
    assert set(summary["verdict"]) == {"not testable"}


def test_equal_seeds_give_equal_tables() -> None:
    found = records(by_chance)
    assert usage_distances(found, draws=50).equals(usage_distances(found, draws=50))
    assert not usage_distances(found, draws=50).equals(usage_distances(found, draws=50, seed=1))


def test_wrong_input_is_refused() -> None:
    found = records(by_layer)
    with pytest.raises(InputError, match="at least two"):
        usage_distances({FINE: found[FINE]})
    with pytest.raises(InputError, match="no clip has any of the segments text"):
        usage_distances(found, segments=["text"])
    with pytest.raises(InputError, match="other clips"):
        usage_across_rates(found | {(8, 2): rate_record((8, 2), routing=by_layer, mome=TOP)})
    with pytest.raises(InputError, match="no segment was asked for"):
        usage_distances(found, segments=[])
    with pytest.raises(InputError, match="seed is -1; give a whole number from 0"):
        usage_across_rates(found, seed=-1)
    for wrong in (0.5, 0, True, "9"):
        with pytest.raises(InputError, match="give a whole number from 1"):
            check_whole("draws", wrong, least=1)
    with pytest.raises(SiteError, match="router"):
        usage_distances({FINE: rate_record(FINE), COARSE: rate_record(COARSE)})
