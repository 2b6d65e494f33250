"""Input controls: what is changed, that nothing else is, and what the sinks make of it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import sinkscope as ss
from sinkscope.avsr.config import AvsrConfig, EncoderConfig
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.errors import InputError
from sinkscope.subjects.avsr import AvsrSubject
from tests.test_subjects_avsr import a_clip, random_model

SWAPPED = ("video", "audio")


@pytest.fixture(scope="module")
def subject() -> AvsrSubject:
    return ss.load(random_model())


def inputs_of(subject: Any, clip: Any, **options: Any) -> Any:
    return next(iter(subject.batches(clip, **options)))


def test_swapped_streams_keep_their_delimiters_and_seconds(subject: AvsrSubject) -> None:
    clip = a_clip()
    plain = inputs_of(subject, clip).layouts[0]
    swapped = inputs_of(subject.with_options(stream_order=SWAPPED), clip).layouts[0]
    assert plain.labels[:8] == ("<s>", "<audio>", "a0", "a1", "a2", "a3", "a4", "</audio>")
    assert swapped.labels[:8] == ("<s>", "<video>", "v0", "v1", "v2", "v3", "v4", "</video>")
    assert swapped.labels[8:15] == plain.labels[1:8]
    assert swapped.labels[15:] == plain.labels[15:]  # the prompt, which stays that of the modality
    order = [swapped.labels.index(label) for label in plain.labels]
    np.testing.assert_array_equal(swapped.seconds[order], plain.seconds)
    assert [swapped.segments[i] for i in order] == list(plain.segments)


def test_swapping_moves_embeddings_and_changes_none(subject: AvsrSubject) -> None:
    plain = inputs_of(subject, a_clip()).kwargs["inputs"]
    swapped = inputs_of(subject.with_options(stream_order=SWAPPED), a_clip()).kwargs["inputs"]
    place = {span.name: span for span in swapped.spans[0]}
    assert place["video"].start < place["audio"].start
    for span in plain.spans[0]:
        other = place[span.name]
        torch.testing.assert_close(
            plain.inputs_embeds[0, span.start : span.stop],
            swapped.inputs_embeds[0, other.start : other.stop],
            rtol=0,
            atol=0,
        )
    assert torch.equal(plain.position_ids, swapped.position_ids)


def test_the_order_of_one_stream_is_its_own(subject: AvsrSubject) -> None:
    clip = replace(a_clip(), frames=None)
    swapped = inputs_of(subject.with_options(stream_order=SWAPPED), clip)
    assert swapped.layouts[0].labels == inputs_of(subject, clip).layouts[0].labels


def test_provenance_and_transcripts_know_the_order(subject: AvsrSubject) -> None:
    swapped = subject.with_options(stream_order=SWAPPED)
    assert subject.provenance()["stream_order"] == ["audio", "video"]
    assert swapped.provenance()["stream_order"] == ["video", "audio"]
    assert swapped.with_options(video_rate=5).stream_order == SWAPPED
    model, said = subject.model, {}
    prepare = model.prepare

    def watched(clips: Any, **options: Any) -> Any:
        inputs = prepare(clips, **options)
        said["names"] = [span.name for span in inputs.spans[0]]
        return inputs

    model.prepare = watched
    try:
        swapped.transcribe(a_clip(), max_new_tokens=1)
    finally:
        del model.prepare
    assert said["names"].index("video") < said["names"].index("audio")


@pytest.mark.parametrize("order", [("video",), ("video", "sound"), "video", ("audio", "audio")])
def test_orders_that_are_none_are_refused(subject: AvsrSubject, order: Any) -> None:
    with pytest.raises(InputError, match="stream_order is"):
        subject.with_options(stream_order=order)
    with pytest.raises(InputError, match="stream_order is"):
        subject.model.prepare([a_clip()], stream_order=order)


def test_a_model_of_one_stream_has_no_order(subject: AvsrSubject) -> None:
    config = subject.model.config
    sound = EncoderConfig("tiny-audio", {"width": 16, "depth": 1})
    alone = AvsrConfig(config.llm, sound, audio_rates=(10,), projector_width=16)
    model = LlamaAvsr(alone, subject.tokenizer)
    with pytest.raises(InputError, match="all that this model reads is audio"):
        ss.load(model).with_options(stream_order=SWAPPED)
