"""Tokens at two rates: exact means match exactly, a shift of one token and another clip show."""

from dataclasses import replace

import numpy as np
import pytest

from sinkscope.analysis.rate_match import cosines, match_tokens
from sinkscope.analysis.rate_similarity import clip_match, rate_similarity
from sinkscope.analysis.words import describe
from sinkscope.errors import InputError, SiteError
from sinkscope.record import Record, merge
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


def unequal(pair: tuple[int, int], *, noise: int | None = None) -> Record:
    """Clips of two lengths; states at random where a seed is given."""
    frames = (320, 80, 320, 80)
    record = merge([clip_record(pair, frames=n, seed=i) for i, n in enumerate(frames)])
    if noise is None:
        return record
    kept = record.dataset["resid_post"]
    drawn = np.random.default_rng([noise, pair[0]]).normal(size=kept.shape)
    blank = np.where(np.isnan(kept.values), np.nan, drawn)
    return replace(record, dataset=record.dataset.assign(resid_post=kept.copy(data=blank)))


def test_states_that_say_nothing_are_no_better_than_the_control() -> None:
    """Clips of 320 and 80 frames: cut to one length, else the shorter ones' chance is larger."""
    tables = [
        rate_similarity(unequal((16, 5), noise=i), unequal((4, 5), noise=i), draws=20)
        for i in range(12)
    ]
    above = np.array([table["above_inside"].mean() for table in tables])
    assert abs(above.mean()) < 3 * above.std() / np.sqrt(len(above)) + 0.005
    raw = np.array([(t["inside"] - t["control_inside"]).mean() for t in tables])
    assert raw.mean() < above.mean() - 0.02
    far = np.array([table["above_deviation"].mean() for table in tables])
    assert abs(far.mean()) < 3 * far.std() / np.sqrt(len(far)) + 0.01


def test_a_match_lies_above_its_control_with_an_interval() -> None:
    table = rate_similarity(unequal((16, 5)), unequal((4, 5)))
    assert (table["above_inside_low"] > 0.2).all()
    assert (table["above_deviation_high"] < 0).all()
    assert (table["control_inside_low"] <= table["control_inside"]).all()
    assert (table["above_inside_low"] <= table["above_inside_high"]).all()
    words = describe(table)
    assert "of 2 layers, tokens match best in layer" in words
    assert "less than over the same time of their own (4 clips)" in words


def mute(record: Record) -> Record:
    """The picture's tokens become text."""
    layout = record.layouts[0]
    segments = tuple("text" if name == "video" else name for name in layout.segments)
    return replace(record, layouts=(replace(layout, segments=segments),))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_clip_without_the_stream_does_not_count(place: int) -> None:
    records = []
    for pair in ((4, 2), (16, 5)):
        own = [clip_record(pair, seed=seed) for seed in range(3)]
        own[place] = mute(own[place])
        records.append(merge(own))
    table = rate_similarity(*records, draws=5).set_index(["segment", "layer"])
    assert table.loc[("audio", 0), "clips"] == 3
    assert table.loc[("video", 0), "clips"] == 2
    assert table.loc[("video", 0), "inside"] > 0.8
    with pytest.raises(InputError, match="has no video token"):
        clip_match(*records, layer=0, segment="video", sample=place)


def test_other_clips_sites_and_layers_are_refused() -> None:
    with pytest.raises(InputError, match="other clips"):
        rate_similarity(rate_record((16, 5)), rate_record((4, 5), clips=2))
    with pytest.raises(SiteError, match="mlp_out"):
        rate_similarity(rate_record((16, 5)), rate_record((4, 5)), site="mlp_out")
    with pytest.raises(InputError, match="no layer 7"):
        clip_match(rate_record((16, 5)), rate_record((4, 5)), layer=7)
    with pytest.raises(InputError, match="seed is -1"):
        rate_similarity(rate_record((16, 5)), rate_record((4, 5)), seed=-1)
    one = rate_record((4, 5))
    upper = replace(one, dataset=one.dataset.sel(layer=[1]))
    lower = replace(one, dataset=one.dataset.sel(layer=[0]))
    with pytest.raises(InputError, match="no layer of resid_post is in both"):
        rate_similarity(upper, lower)


def test_a_shared_direction_hides_matches_until_it_is_taken_off() -> None:
    rng = np.random.default_rng(0)
    fine = rng.normal(size=(8, 6)) + 50
    coarse = fine.reshape(4, 2, 6).mean(1)
    assert cosines(coarse, fine).min() > 0.99
    assert cosines(coarse, fine, centred=True).min() < 0
    blank = np.zeros((2, 6))
    assert (cosines(blank, fine) == 0).all()
