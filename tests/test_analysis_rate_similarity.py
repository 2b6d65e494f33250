"""Tokens at two rates: exact means match exactly, a shift of one token and another clip show."""

import numpy as np
import pytest

from sinkscope.analysis.rate_match import cosines, match_tokens
from sinkscope.analysis.rate_similarity import clip_match, rate_similarity
from sinkscope.errors import InputError, SiteError
from tests.planted_rates import clip_record, rate_record


def test_exact_means_lie_on_the_diagonal() -> None:
    table = rate_similarity(rate_record((16, 5)), rate_record((4, 1)))
    assert table["segment"].tolist() == ["audio", "audio", "video", "video"]
    assert table["expected"].tolist() == [4, 4, 5, 5]
    assert table["layer"].tolist() == [0, 1, 0, 1]
    for row in table.itertuples():
        assert row.inside > 0.9
        assert row.deviation < 0.02
        assert row.slope == pytest.approx(row.expected, rel=0.05)
        assert row.control_inside < 0.6 < row.inside
        assert row.control_deviation > 5 * row.deviation


def test_means_of_frames_that_never_return_give_exactly_the_ratio() -> None:
    """Orthogonal frames: a fine token is like the mean that holds it and like no other."""
    fine = np.eye(12)
    edges = np.arange(13) * 0.5
    for ratio in (2, 3, 4, 6):
        coarse = fine.reshape(-1, ratio, 12).mean(1)
        spans = np.stack([edges[:-1:ratio], edges[ratio::ratio]], 1)
        seconds = np.stack([edges[:-1], edges[1:]], 1)
        match = match_tokens(coarse, fine, coarse_seconds=spans, fine_seconds=seconds)
        assert match.slope == pytest.approx(ratio, abs=1e-12)
        assert match.slope_seconds == pytest.approx(1, abs=1e-12)
        assert match.line()[1] == pytest.approx((ratio - 1) / 2, abs=1e-12)
        assert match.inside == 1
        assert match.deviation == 0
        assert match.offset == pytest.approx(0, abs=1e-12)
        assert match.partners.tolist() == [ratio] * len(coarse)


def test_a_shift_of_one_token_shows() -> None:
    straight, moved = rate_record((16, 5)), rate_record((16, 5), shift=1)
    fine = rate_record((4, 1))
    right, wrong = (rate_similarity(coarse, fine) for coarse in (straight, moved))
    for before, after in zip(right.itertuples(), wrong.itertuples(), strict=True):
        width = before.coarse_rate * 0.04
        assert after.inside < 0.3 < before.inside
        assert after.deviation > width / 3 > before.deviation
    one = clip_match(moved, fine, layer=0, segment="video")
    late = one.coarse_seconds[one.best].mean(1) - one.fine_seconds.mean(1)
    assert np.median(late) == pytest.approx(0.2, abs=0.09)


def test_which_record_comes_first_does_not_matter_and_streams_choose_for_themselves() -> None:
    one, other = rate_record((4, 5)), rate_record((16, 1))
    there, back = rate_similarity(one, other), rate_similarity(other, one)
    assert there.equals(back)
    rates = there.drop_duplicates("segment").set_index("segment")
    assert rates.loc["audio", ["coarse_rate", "fine_rate"]].tolist() == [16, 4]
    assert rates.loc["video", ["coarse_rate", "fine_rate"]].tolist() == [5, 1]


def test_a_stream_with_one_rate_is_left_out() -> None:
    table = rate_similarity(rate_record((4, 5)), rate_record((16, 5)))
    assert set(table["segment"]) == {"audio"}
    with pytest.raises(InputError, match="two rates"):
        rate_similarity(rate_record((4, 5)), rate_record((4, 5)))
    with pytest.raises(InputError, match="video"):
        clip_match(rate_record((4, 5)), rate_record((16, 5)), layer=0, segment="video")


def test_one_clip_has_neither_interval_nor_control() -> None:
    table = rate_similarity(clip_record((16, 5)), clip_record((4, 5)))
    assert np.isnan(table["slope_low"]).all()
    assert np.isnan(table["control_inside"]).all()
    assert np.isfinite(table["slope"]).all()


def test_means_and_intervals_are_those_of_the_clips() -> None:
    coarse, fine = rate_record((16, 5)), rate_record((4, 5))
    table = rate_similarity(coarse, fine)
    own = [clip_match(coarse, fine, layer=1, sample=i).deviation for i in range(3)]
    row = table.loc[table["layer"] == 1].iloc[0]
    assert row["deviation"] == pytest.approx(np.mean(own))
    assert min(own) - 1e-12 <= row["deviation_low"] <= row["deviation"]
    assert row["deviation"] <= row["deviation_high"] <= max(own) + 1e-12


def test_other_clips_sites_and_layers_are_refused() -> None:
    with pytest.raises(InputError, match="other clips"):
        rate_similarity(rate_record((16, 5)), rate_record((4, 5), clips=2))
    with pytest.raises(SiteError, match="mlp_out"):
        rate_similarity(rate_record((16, 5)), rate_record((4, 5)), site="mlp_out")
    with pytest.raises(InputError, match="no layer 7"):
        clip_match(rate_record((16, 5)), rate_record((4, 5)), layer=7)


def test_a_shared_direction_hides_matches_until_it_is_taken_off() -> None:
    rng = np.random.default_rng(0)
    fine = rng.normal(size=(8, 6)) + 50
    coarse = fine.reshape(4, 2, 6).mean(1)
    assert cosines(coarse, fine).min() > 0.99
    assert cosines(coarse, fine, centred=True).min() < 0
    blank = np.zeros((2, 6))
    assert (cosines(blank, fine) == 0).all()
