"""Which passes a step makes: every pair or a drawn one, in the published order, from its number."""

from collections import Counter

import pytest

from sinkscope.avsr.passes import AllPairs, Pass, SampledPair, pairs_of
from sinkscope.errors import InputError

EVERY = ("audio", "video", "audiovisual")


def rates(passes):
    return [(each.modality, each.audio_rate, each.video_rate) for each in passes]


def test_all_pairs_loops_over_video_outside_and_audio_inside():
    found = AllPairs((4, 16), (2, 5)).passes(7)
    assert [each[1:] for each in rates(found)] == [(4, 2), (16, 2), (4, 5), (16, 5)]
    assert {each.modality for each in found} == {"audiovisual"}


def test_one_stream_is_read_at_its_own_rates_once():
    found = AllPairs((4, 16), (2, 5, 2), EVERY).passes(0)
    assert rates(found)[:2] == [("audio", 4, None), ("audio", 16, None)]
    assert rates(found)[2:4] == [("video", None, 2), ("video", None, 5)]
    assert len(found) == 8
    assert found[1].rates == {"audio": 16}
    assert found[-1].rates == {"audio": 16, "video": 5}


def test_a_joint_sequence_has_the_video_rate_alone():
    assert rates(AllPairs((), (2, 5)).passes(0)) == [
        ("audiovisual", None, 2),
        ("audiovisual", None, 5),
    ]


def test_weights_go_to_their_modality():
    found = AllPairs((4,), (2,), EVERY, {"video": 1.5, "audio": 0}).passes(0)
    assert [each.weight for each in found] == [0, 1.5, 1]


def test_a_drawn_step_has_one_audio_and_one_video_rate():
    schedule = SampledPair((4, 8, 16), (2, 5), EVERY, {"video": 1.5}, seed=1)
    for step in range(50):
        sound, picture, both = schedule.passes(step)
        assert (sound.modality, picture.modality, both.modality) == EVERY
        assert (both.audio_rate, both.video_rate) == (sound.audio_rate, picture.video_rate)
        assert picture.weight == 1.5


def test_every_pair_is_drawn_about_as_often():
    schedule = SampledPair((4, 16), (2, 5), ("audiovisual",), seed=0)
    counts = Counter(schedule.passes(step)[0] for step in range(2000))
    assert set(counts) == set(schedule.possible())
    assert all(abs(count - 500) < 80 for count in counts.values())


def test_equal_seeds_give_equal_draws_whatever_came_before():
    one, other, third = (SampledPair((4, 16), (2, 5), EVERY, seed=s) for s in (5, 5, 6))
    forwards = [one.passes(step) for step in range(40)]
    backwards = [other.passes(step) for step in reversed(range(40))][::-1]
    assert forwards == backwards
    assert [third.passes(step) for step in range(40)] != forwards
    longer = SampledPair((4, 16, 32), (2, 5), EVERY, seed=5)
    both = zip(forwards, (longer.passes(step) for step in range(40)), strict=True)
    assert any(one[0].audio_rate != other[0].audio_rate for one, other in both)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: AllPairs((4,), (2,), ("smell",)), "no modality 'smell'"),
        (lambda: AllPairs((4,), (2,), ()), "no modality was given"),
        (lambda: AllPairs((), (2,), ("audio",)), "'audio' needs audio rates"),
        (lambda: AllPairs((4,), ()), "'audiovisual' needs video rates"),
        (lambda: AllPairs((0,), (2,)), "a rate is 0"),
        (lambda: SampledPair((4,), (2,), weights={"video": -1}), "weight of video is -1"),
        (lambda: SampledPair((4,), (2,), weights={"both": 1}), "no modality 'both'"),
        (lambda: SampledPair((4,), (2,), seed=-1), "seed is -1"),
    ],
)
def test_what_cannot_be_is_refused(made, words):
    with pytest.raises(InputError, match=words):
        made()


def test_names_say_audio_first():
    assert Pass("audiovisual", 16, 5).name == "audiovisual 16:5"
    assert pairs_of("audiovisual", (4, 4), (2,)) == [(4, 2)]
