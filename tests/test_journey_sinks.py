"""The main job on trained models: the bundled one has sinks, the negative control has none."""

import numpy as np
import pytest

import sinkscope as ss
from sinkscope.analysis import describe, sink_summary, twins
from sinkscope.avsr.evaluation import word_errors
from tests.shared_data import shared

STORY = (
    "Once upon a time there was a little girl named Lily. She loved to play outside in the park "
    "with her friends. One day she saw a big red ball under a tree and wanted to play with it. "
    "Her mom said that they could take the ball home and play with it every day. Lily was happy."
)


@pytest.fixture(scope="module")
def subject():
    return ss.load("tiny-avsr")


@pytest.fixture(scope="module")
def record(subject) -> ss.Record:
    clips = [ss.read_clip(path) for path in ss.bundled_clips()]
    return ss.merge([ss.record(subject, clip) for clip in clips])


def test_the_bundled_model_understands_voices_that_it_never_heard(subject) -> None:
    clips = [ss.read_clip(path) for path in ss.bundled_clips()]
    said = subject.transcribe(clips)
    assert word_errors([clip.text for clip in clips], said).rate < 0.35


def test_the_bundled_model_has_sinks_massive_activations_and_twins(record: ss.Record) -> None:
    sinks = ss.find_sinks(record)
    assert set(sinks["sample"]) == {0, 1, 2}
    assert (sinks["sink_rate"] >= 0.5).any()
    massive = ss.find_massive_activations(record)
    on_bos = massive[massive["segment"] == "bos"]
    assert on_bos["ratio"].max() >= 100
    first = on_bos[on_bos["layer"] == on_bos["layer"].min()].sort_values("ratio")
    largest = first.groupby("sample")["feature"].agg(lambda found: frozenset(found.tail(3)))
    assert largest.nunique() == 1, "BOS carries the same features whatever is said"
    assert len(twins(record))


def test_bos_does_not_depend_on_what_follows(record: ss.Record) -> None:
    """In a causal model the state at position 0 is the same for every clip."""
    values = record["top_value"].isel(token=0).values
    np.testing.assert_allclose(values[0], values[1], rtol=1e-4)
    np.testing.assert_allclose(values[0], values[2], rtol=1e-4)


def test_without_bos_every_table_says_so(subject) -> None:
    clip = ss.read_clip(ss.bundled_clips()[2])
    record = ss.record(subject, clip, prepend_bos=False)
    assert record.provenance["prepend_bos"] is False
    assert "bos" not in record.layouts[0].segments
    assert not ss.bos_similarity(record)["bos_present"].any()


def test_the_negative_control_has_nothing() -> None:
    record = ss.record(ss.load(str(shared("data/stories260K"))), STORY)
    assert len(record.layouts[0]) > 64
    sinks = ss.find_sinks(record)
    assert len(sinks) == 0
    assert "No attention sink found" in describe(sinks)
    alpha = ss.key_attention(record).mean("head").isel(sample=0, key=0)
    assert float(alpha.max()) < 0.15
    assert len(ss.find_massive_activations(record)) == 0
    assert len(ss.find_massive_activations(record, ratio=50.0)) == 0


def test_real_clips_go_end_to_end(subject) -> None:
    for path in sorted(shared("data/grid").glob("*.mpg")):
        clip = ss.read_clip(path)
        record = ss.record(subject, clip)
        assert subject.transcribe(clip)
        seconds = record.layouts[0].seconds
        assert np.nanmax(seconds) <= clip.duration + 0.1
        assert len(sink_summary(record))


def test_a_model_without_sinks_has_nothing_to_explain() -> None:
    story = ss.explain(str(shared("data/stories260K")), STORY)
    assert story.findings.origin is None
    assert story.effects is None
    assert "No attention sink found" in story.words
    assert "nothing whose origin could be traced" in story.words
