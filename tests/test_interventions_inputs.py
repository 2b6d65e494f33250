"""Input controls: what is changed, that nothing else is, and what the sinks make of it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import sinkscope as ss
from sinkscope.avsr.clip import Clip
from sinkscope.avsr.config import AvsrConfig, EncoderConfig
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.errors import InputError
from sinkscope.interventions import changes
from sinkscope.interventions.controls import CONTROLS, Control, Input, Surroundings
from sinkscope.subjects.avsr import AvsrSubject
from tests.test_encoders_subjects import joint, model_with
from tests.test_subjects_avsr import a_clip, random_model

SWAPPED = ("video", "audio")
NOTHING = Surroundings((), np.random.default_rng(0))


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
    assert ss.load(model).provenance()["stream_order"] == ["audio"]


def test_one_sequence_of_both_has_no_order() -> None:
    subject = ss.load(joint(single=True))
    with pytest.raises(InputError, match="all that this model reads is one sequence of both"):
        subject.with_options(stream_order=SWAPPED)
    rows = rows_of(ss.input_controls(subject, a_clip()))
    assert "which has no order" in rows["swapped_order"]["reason"]
    done = {name for name, row in rows.items() if not row["reason"]}
    assert done >= {"silence", "frozen_frame", "no_bos", "repeated_token"}
    apart = ss.load(joint(single=False)).with_options(stream_order=SWAPPED)
    assert inputs_of(apart, a_clip()).layouts[0].labels[1:3] == ("<video>", "v0")


def rows_of(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The rows of a table of one input, by control."""
    return {row["control"]: row for row in table.to_dict("records")}


def seen_by(encoder: Any, run: Any) -> list[Clip]:
    """The clips that an encoder prepares while something runs."""
    clips, prepare = [], encoder.prepare

    def watched(given: Any, **options: Any) -> Any:
        clips.extend(given)
        return prepare(given, **options)

    encoder.prepare = watched
    try:
        run()
    finally:
        del encoder.prepare
    return clips


def test_silence_reaches_the_encoder_as_zeros(subject: AvsrSubject) -> None:
    clip = a_clip()
    before, *after = seen_by(
        subject.model.encoder("audio"),
        lambda: ss.input_controls(subject, clip, controls=["silence"]),
    )[-2:]
    assert np.abs(before.waveform).max() > 0
    assert len(after) == 1
    assert not after[0].waveform.any()
    assert after[0].waveform.shape == clip.waveform.shape
    assert after[0].waveform.dtype == clip.waveform.dtype
    np.testing.assert_array_equal(after[0].frames, clip.frames)


def test_a_frozen_clip_has_its_middle_picture_throughout(subject: AvsrSubject) -> None:
    clip = a_clip(1.4)  # the mouth moves after frame 12
    after = seen_by(
        subject.model.encoder("video"),
        lambda: ss.input_controls(subject, clip, controls=["frozen_frame"]),
    )[-1]
    assert after.frames.shape == clip.frames.shape
    assert (after.frames == clip.frames[17]).all()
    assert not any((clip.frames[i] == clip.frames[17]).all() for i in range(35) if i != 17)
    np.testing.assert_array_equal(after.waveform, clip.waveform)


def test_another_picture_is_cut_to_fit() -> None:
    clip, longer, shorter = a_clip(1.0), a_clip(1.4), a_clip(0.8)
    same = changes.other_picture(clip, longer)
    np.testing.assert_array_equal(same.frames, longer.frames[:25])
    assert len(same.waveform) == len(clip.waveform)
    cut = changes.other_picture(clip, shorter)
    assert len(cut.frames) == 20
    assert len(cut.waveform) == 12_800
    np.testing.assert_array_equal(cut.waveform, clip.waveform[:12_800])


def test_the_other_picture_is_one_that_is_long_enough(subject: AvsrSubject) -> None:
    clips = [a_clip(1.0), a_clip(0.6), a_clip(1.4)]
    table = ss.input_controls(subject, clips, controls=["other_picture"])
    own = table.loc[table["sample"] == 0]
    assert own["tokens"].tolist() == [22, 22]  # the third clip's, not the next one's
    last = table.loc[table["sample"] == 2]
    assert last["tokens"].tolist() == [26, 22]  # no other is as long


@pytest.mark.parametrize("others", [0, 1])
def test_no_other_picture_is_said(subject: AvsrSubject, others: int) -> None:
    clips = [a_clip()] * (1 + others)  # the same picture twice is no other one
    table = ss.input_controls(subject, clips, controls=["other_picture"])
    changed = table.loc[table["control"] == "other_picture"]
    assert set(changed["reason"]) == {"no other clip has another picture."}
    assert changed[["sink_rate", "tokens", "jaccard"]].isna().all(axis=None)


def test_what_no_token_is_made_of_cannot_be_changed(subject: AvsrSubject) -> None:
    rows = rows_of(ss.input_controls(subject.with_options(modality="audio"), a_clip()))
    for name in ("frozen_frame", "other_picture", "swapped_order"):
        assert rows[name]["reason"] == "no token is made of picture here."
    assert rows["silence"]["reason"] == ""
    rows = rows_of(ss.input_controls(subject.with_options(modality="video"), a_clip()))
    assert rows["silence"]["reason"] == "no token is made of sound here."


def test_no_bos_takes_one_token_away(subject: AvsrSubject) -> None:
    rows = rows_of(ss.input_controls(subject, a_clip(), controls=["no_bos"]))
    assert rows["original"]["tokens"] - rows["no_bos"]["tokens"] == 1
    assert (rows["original"]["reference"], rows["no_bos"]["reference"]) == ("<s>", "<audio>")
    sample = Input(subject, inputs_of(subject, a_clip()).layouts[0], clip=a_clip())
    changed = CONTROLS["no_bos"].change(sample, NOTHING)
    given = dict(changed.arguments())
    labels = inputs_of(subject, given.pop("data"), **given).layouts[0].labels
    assert labels == sample.layout.labels[1:]


def test_without_a_bos_there_is_none_to_take(subject: AvsrSubject) -> None:
    rows = rows_of(ss.input_controls(subject, a_clip(), prepend_bos=False))
    for name in ("no_bos", "repeated_after_bos"):
        assert rows[name]["reason"] == "there is no BOS to begin with."
    assert rows["repeated_token"]["tokens"] == rows["original"]["tokens"] == 21


def test_swapping_a_swapped_subject_gives_the_published_order(subject: AvsrSubject) -> None:
    swapped = subject.with_options(stream_order=SWAPPED)
    sample = Input(swapped, inputs_of(swapped, a_clip()).layouts[0], clip=a_clip())
    again = CONTROLS["swapped_order"].change(sample, NOTHING)
    assert again.subject.stream_order == ("audio", "video")
    names = ["sample", "name", "control"]
    there = ss.input_controls(subject, a_clip(), controls=["swapped_order"]).drop(columns=names)
    back = ss.input_controls(swapped, a_clip(), controls=["swapped_order"]).drop(columns=names)
    for one, other in ((0, 1), (1, 0)):
        assert there.loc[one].drop("jaccard").equals(back.loc[other].drop("jaccard"))


def test_a_repeated_feature_stands_everywhere_but_where_bos_is_kept(subject: AvsrSubject) -> None:
    inputs = inputs_of(subject, a_clip())
    sample, plain = Input(subject, inputs.layouts[0], clip=a_clip()), inputs.kwargs["inputs"]
    first = plain.inputs_embeds[0, 2]  # after BOS and <audio>
    for name, kept in (("repeated_token", 0), ("repeated_after_bos", 1)):
        changed = CONTROLS[name].change(sample, NOTHING)
        assert torch.equal(changed.embeds[:kept], plain.inputs_embeds[0, :kept])
        assert (changed.embeds[kept:] == first).all()
        assert changed.layout.labels == ("<s>",) * kept + ("a0",) * (22 - kept)
        assert changed.layout.has_bos == bool(kept)


def test_embeddings_are_read_as_the_clip_is(subject: AvsrSubject) -> None:
    """Through the embeddings, an unchanged clip gives what it gives by itself."""
    inputs = inputs_of(subject, a_clip())
    embeds = inputs.kwargs["inputs"].inputs_embeds[0]
    layout = inputs.layouts[0]
    same = Control("the same", ("clip",), lambda sample, _: replace(sample, embeds=embeds))
    rows = rows_of(ss.input_controls(subject, a_clip(), controls={"same": same}))
    assert rows["original"]["tokens"] == len(layout)
    for name, value in rows["original"].items():
        if name != "control":
            assert rows["same"][name] == pytest.approx(value, nan_ok=True), name


def test_encoders_have_the_controls_of_their_stream() -> None:
    encoder = ss.load(model_with("wavlm")).encoder("audio")
    rows = rows_of(ss.input_controls(encoder, a_clip()))
    assert rows["silence"]["reason"] == ""
    assert rows["silence"]["tokens"] == rows["original"]["tokens"]
    assert rows["silence"]["sink_rate"] >= 0
    reasons = {name: row["reason"] for name, row in rows.items() if row["reason"]}
    assert reasons == {
        "frozen_frame": "no token is made of picture here.",
        "other_picture": "no token is made of picture here.",
        "swapped_order": "no token is made of picture here.",
        "no_bos": "there is no BOS to begin with.",
        "repeated_token": "this model reads frames, not tokens of a language model.",
        "repeated_after_bos": "there is no BOS to begin with.",
    }
