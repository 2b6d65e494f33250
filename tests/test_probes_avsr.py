"""Probes on the bundled audio-visual LLM: clips, transcription, and what it is given by hand."""

from pathlib import Path

import pytest
import torch

import sinkscope as ss
from sinkscope.errors import InputError
from tests.same_records import check_same

CLIPS = Path(ss.__file__).parent / "assets" / "clips"
EVERYTHING = [*ss.DEFAULT, ss.Keep("pattern"), ss.Keep("resid_post"), ss.PatternBins(32)]


@pytest.fixture(scope="module")
def subject():
    return ss.load("tiny-avsr")


@pytest.fixture(scope="module")
def clips() -> list:
    return [ss.read_clip(path) for path in sorted(CLIPS.glob("*.mp4"))[:2]]


def test_clips(subject, clips) -> None:
    record = ss.record(subject, clips, reducers=EVERYTHING)
    assert len(record) == 2
    assert record.provenance["prepend_bos"] is True
    assert record.provenance["bos_present"] == [True, True]
    assert record.clips[0].duration == pytest.approx(clips[0].duration, abs=0.1)
    assert {"bos", "audio", "video", "delimiter", "instruction"} <= set(record.layouts[0].segments)
    apart = [ss.record(subject, clip, reducers=EVERYTHING) for clip in clips]
    check_same(ss.merge(apart), record)


def test_transcribing_is_stitched(subject, clips) -> None:
    """Two clips of different length, padded on the left, equal one forward over each alone."""
    with ss.probe(subject, EVERYTHING) as probe:
        said = subject.transcribe(clips)
    plain = subject.transcribe(clips)
    assert said == plain
    model = subject.model
    for sample, clip in enumerate(clips):
        stitched = probe.record.sample(sample)
        layout = stitched.layouts[0]
        prepared = model.prepare([clip]).inputs_embeds
        new = len(layout) - prepared.shape[1]
        assert layout.segments[-new:] == ("response",) * new
        words = [label for label in layout.labels[-new:] if label != "</s>"]
        assert " ".join(words) in said[sample]
        ids = model.tokenizer.convert_tokens_to_ids(list(layout.labels[-new:]))
        embedded = model.llm.get_input_embeddings()(torch.tensor([ids]))
        whole = torch.cat([prepared, embedded], dim=1).detach()
        alone = ss.record(subject, inputs_embeds=whole, layout=layout, reducers=EVERYTHING)
        check_same(stitched, alone, tolerance=2e-5)


def test_beams_are_refused(subject, clips) -> None:
    with pytest.raises(InputError, match="num_beams=1"), ss.probe(subject):
        subject.transcribe(clips[0], num_beams=2)
    assert isinstance(subject.transcribe(clips[0], num_beams=2), str)
