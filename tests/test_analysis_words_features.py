"""What is said of validation, stability, inheritance and published sets; also of empty ones."""

import pytest

import sinkscope as ss
from sinkscope.analysis import describe
from sinkscope.record import Record, merge
from tests.fake_records import fake_av_record


@pytest.fixture(scope="module")
def clips() -> Record:
    other = fake_av_record(80, seed=2, twin=False)
    return merge([fake_av_record(60, seed=0), fake_av_record(72, seed=1), other])


@pytest.fixture(scope="module")
def nothing() -> Record:
    return fake_av_record(bos=False, sink=False, twin=False)


def test_validation(clips: Record, nothing: Record) -> None:
    said = describe(ss.validate_features(clips))
    assert said.startswith("32 tokens have all of their layer's features (7, 29, 57) massive as")
    assert "24 of these are attention sinks (precision 0.75 [0.67, 1.00])" in said
    assert "out of 24 sinks (recall 1.00 [1.00, 1.00]; 3 clips, layers 1 to 5 (0-based)" in said
    alone = describe(ss.validate_features(fake_av_record(), with_reference=False, need="any"))
    assert "any of their layer's features" in alone
    assert "(precision 0.50), out of 4 sinks" in alone
    assert "the reference token left out" in alone
    none = describe(ss.validate_features(nothing))
    assert none.startswith("No feature to validate")
    assert "attention alone finds 0 sinks" in none
    missed = describe(ss.validate_features(nothing, features=[3]))
    assert missed.startswith("0 tokens have")
    assert "precision undefined" in missed


def test_stability(clips: Record, nothing: Record) -> None:
    same = describe(ss.feature_stability(clips))
    assert (
        same
        == "The massive features are the same set in all of 3 clips in 4 of 4 layers that have any."
    )
    mixed = merge([fake_av_record(60), fake_av_record(60, bos=False, sink=False, twin=False)])
    assert "in 0 of 4 layers that have any; the least alike are those of layer 1" in describe(
        ss.feature_stability(mixed)
    )
    assert "in 3 of 3 clips (mean Jaccard" in describe(ss.feature_stability(clips, by="sample"))
    shares = describe(ss.feature_stability(mixed, by="feature"))
    assert "the share of 2 clips that have them: 7 in 0.50 [0.00, 1.00]" in shares
    for by, words in (("layer", "No layer"), ("sample", "No clip"), ("feature", "No feature")):
        assert describe(ss.feature_stability(nothing, by=by)).startswith(words)


def test_comparison(clips: Record, nothing: Record) -> None:
    base = fake_av_record(60)
    said = describe(ss.compare_features(clips, base))
    assert "3 inherited from the base (7, 29, 57), 0 new, 0 lost" in said
    assert "0 inherited from the base, 0 new, 3 lost (7, 29, 57)" in describe(
        ss.compare_features(nothing, base)
    )
    assert describe(ss.compare_features(nothing, nothing)).startswith("Neither the model nor its")


def test_published() -> None:
    said = describe(ss.match_published([2070, 7], d_model=4096))
    assert "that of Mistral" in said
    assert "1 of its 1 (Jaccard 0.50; by chance 0.00049 are expected" in said
    assert said.endswith("A hint of the origin, not a proof.")
    assert "expected" not in describe(ss.match_published([2070]))
    assert describe(ss.match_published([5], d_model=64)).startswith("None of ")
    assert describe(ss.published_features("Mixtral")) == (
        "Published features or neurons of 1 model: 2 secondary."
    )


def test_validation_in_the_singular() -> None:
    one = ss.validate_features(fake_av_record(), ratio=50)
    one.loc[one.index[-1], ["flagged", "tp"]] = 1
    assert "1 token has all of" in describe(one)
    assert "; 1 of these is an attention sink (precision" in describe(one)
