"""Interventions on the bundled audio-visual LLM: clips, transcripts, delimiters; its own story."""

from pathlib import Path

import numpy as np
import pytest

import sinkscope as ss

CLIPS = Path(ss.__file__).parent / "assets" / "clips"


@pytest.fixture(scope="module")
def subject():
    return ss.load("tiny-avsr")


@pytest.fixture(scope="module")
def clips() -> list:
    return [ss.read_clip(path) for path in sorted(CLIPS.glob("*.mp4"))]


@pytest.fixture(scope="module")
def story(subject, clips):
    return ss.explain(subject, clips)


def test_the_report_s_story_is_confirmed_by_its_own_interventions(story) -> None:
    births = story.findings.births
    assert set(births["layer"]) == {0}
    assert set(births["part"]) == {"mlp"}
    assert births["share"].min() > 0.95
    assert births["neuron"].nunique() == 1
    gates = story.findings.origin.neurons
    leading = gates.loc[gates["rank"] == 0]
    assert (leading["gate"] > 0).all()
    assert (leading["gate_others"] < 0).all()
    share = story.tests.set_index(["condition", "claim"])["share"]
    assert share["silence neurons"].tolist() == [1, 1]
    assert share["turn sinks away"].tolist() == [1, 1]
    assert share["turn BOS away"].tolist() == [1]
    assert share["turn ordinary to BOS", "it becomes massive"] == 1
    controls = story.tests.loc[story.tests["control"]]
    assert (controls["share"] == 1).all()


def test_recognition_pays_for_the_neuron_and_for_no_other(story) -> None:
    after = story.effects.summary.pivot(index="condition", columns="metric", values="after")
    assert after.loc["silence neurons", "wer"] > after.loc["before", "wer"] + 0.2
    assert after.loc["silence random neurons", "wer"] == after.loc["before", "wer"]
    assert after.loc["mean massive", "wer"] == after.loc["before", "wer"]


def test_transcribing_a_batch_under_edits_is_transcribing_each_clip(subject, clips) -> None:
    edits = [ss.Zero(site="mlp_act", layers=0, features=94), ss.BlockAttention(keys="</audio>")]
    reducers = [ss.Keep("resid_post")]
    with ss.intervene(subject, edits), ss.probe(subject, reducers) as probe:
        together = subject.transcribe(clips[:2])
    assert together != subject.transcribe(clips[:2])
    for sample, clip in enumerate(clips[:2]):
        with ss.intervene(subject, edits), ss.probe(subject, reducers) as alone:
            said = subject.transcribe(clip)
        assert said == together[sample]
        one = alone.record["resid_post"].values[0]
        of_batch = probe.record.sample(sample)["resid_post"].values[0][:, : one.shape[1]]
        assert np.allclose(of_batch, one, atol=1e-4 * np.abs(one).max())


def test_swapped_delimiters_swap_their_states(subject, clips) -> None:
    keep = [ss.Keep("resid_pre", layers=[0])]
    plain = ss.record(subject, clips[0], reducers=keep)
    with ss.intervene(subject, ss.SwapEmbeddings("<audio>", "</audio>")):
        seen = ss.record(subject, clips[0], reducers=keep)
    labels = plain.layouts[0].labels
    first, last = labels.index("<audio>"), labels.index("</audio>")
    before, after = (found["resid_pre"].values[0, 0] for found in (plain, seen))
    assert np.array_equal(after[[first, last]], before[[last, first]])
    assert np.array_equal(np.delete(after, [first, last], 0), np.delete(before, [first, last], 0))


def test_without_bos_is_as_prepared_without_bos(subject, clips) -> None:
    reducers = [ss.Keep("resid_post")]
    with ss.intervene(subject, ss.DropBos()):
        hidden = ss.record(subject, clips[0], reducers=reducers)["resid_post"].values[0, :, 1:]
    plain = ss.record(subject, clips[0], reducers=reducers, prepend_bos=False)
    expected = plain["resid_post"].values[0]
    assert np.allclose(hidden, expected, atol=2e-3 * np.abs(expected).max())


def test_tables_are_of_their_clip(subject, clips, story) -> None:
    """Each clip's own tokens are changed, in one pass over all of them and one at a time."""
    edit = ss.Zero(at=story.findings.births)
    reducers = [ss.Keep("resid_post", layers=[0])]
    with ss.intervene(subject, edit):
        together = ss.record(subject, clips, reducers=reducers)
    for sample, clip in enumerate(clips):
        with ss.intervene(subject, edit.for_sample(sample)):
            alone = ss.record(subject, clip, reducers=reducers)
        found = together.sample(sample)["resid_post"].values[0, 0]
        assert np.array_equal(found, alone["resid_post"].values[0, 0])
        own = story.findings.births.loc[story.findings.births["sample"] == sample]
        assert (found[own["token"], own["feature"]] == 0).all()


def test_a_text_is_explained_too(subject) -> None:
    story = ss.explain(subject, ["bin blue at a nine now", "set red with b two please"])
    assert set(story.findings.births["layer"]) == {0}
    assert "loss" in set(story.effects.summary["metric"])
    assert "wer" not in set(story.effects.summary["metric"])
