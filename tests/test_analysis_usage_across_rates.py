"""Usage between rates and layers: planted to be the same, to be another, and shuffled."""

import numpy as np
import pytest

from sinkscope.analysis.distances import jensen_shannon, total_variation
from sinkscope.analysis.usage_across_rates import usage_across_rates
from sinkscope.analysis.usage_distances import usage_distances
from sinkscope.errors import InputError, SiteError
from sinkscope.layout import TokenLayout
from tests.planted_rates import rate_record

E = 6
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


def test_clips_weigh_alike_whatever_their_rate() -> None:
    """Audio gets 1 and all else 0: the share of audio tokens is the usage, clip by clip."""

    def audio_only(layout: TokenLayout, layer: int) -> np.ndarray:
        return one_hot(layout.mask("audio").astype(int))

    table = usage_distances(records(audio_only), segments=["all"], draws=20)
    shares = [20 / (14 + 20 + 40), 5 / (14 + 5 + 16)]
    between = table.loc[table["kind"] == "rates", "tv"]
    assert between.to_numpy() == pytest.approx(abs(shares[0] - shares[1]))


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
    with pytest.raises(InputError, match="none of the segments text"):
        usage_distances(found, segments=["text"])
    with pytest.raises(InputError, match="other clips"):
        usage_across_rates(found | {(8, 2): records(by_layer, clips=2)[FINE]})
    with pytest.raises(SiteError, match="router"):
        usage_distances({FINE: rate_record(FINE), COARSE: rate_record(COARSE)})
