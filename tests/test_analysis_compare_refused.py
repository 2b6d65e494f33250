"""Two records that cannot be compared token by token are refused, in a sentence that helps."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

import sinkscope as ss
from sinkscope.errors import InputError
from sinkscope.layout import TokenLayout
from sinkscope.record import Record, merge
from tests.compared_records import BASE, clip_record, clips_record, with_clip


def said(record: Record, **changes: Any) -> Record:
    return replace(record, provenance={**record.provenance, **changes})


def laid_out(record: Record, **changes: Any) -> Record:
    """The record with another layout of the same tokens."""
    layout = record.layouts[0]
    return replace(record, layouts=(TokenLayout(**{**vars(layout), **changes}),))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"d_model": 64}, {"d_model": 128}, "width, 64 before and 128 after"),
        ({"n_layers": 4}, {"n_layers": 6}, "number of layers"),
        ({"n_heads": 4}, {"n_heads": 8}, "number of heads"),
        ({"family": "llama"}, {"family": "gemma"}, "family"),
        ({"audio_rate": 4}, {"audio_rate": 16}, "audio rate, 4 before and 16 after"),
        ({"video_rate": 2}, {"video_rate": 5}, "video rate"),
        ({"modality": "audio"}, {"modality": "video"}, "streams"),
        ({"massive_ratio": 50.0}, {"massive_ratio": 40.0}, "--ratio"),
    ],
)
def test_other_provenance(before: dict, after: dict, words: str) -> None:
    record = clip_record(BASE, 0)
    with pytest.raises(InputError, match=words):
        ss.compare(said(record, **before), said(record, **after))


def test_ratios_that_differ_are_judged_by_one() -> None:
    record = clip_record(BASE, 0)
    one, other = said(record, massive_ratio=50.0), said(record, massive_ratio=40.0)
    found = ss.compare(one, other, thresholds=ss.Thresholds(ratio=45))
    assert set(found.features["status"]) == {"kept"}


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (replace(BASE, heads=8), "number of recorded heads, 4 before and 8 after"),
        (replace(BASE, n_layers=5), "recorded layers"),
    ],
)
def test_other_architecture(plan: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ss.compare(clip_record(BASE, 0), clip_record(plan, 0))


def test_fewer_clips() -> None:
    with pytest.raises(InputError, match="3 clips before and 2 after"):
        ss.compare(clips_record(), clips_record(clips=(0, 1)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": "bin red at f two"}, "what is said"),
        ({"duration": 2.5}, "duration, 2.000 s before and 2.500 s after"),
        ({"envelope": [[-0.1, 0.1]] * 200}, "waveforms are not the same"),
    ],
)
def test_other_clips(changes: dict, words: str) -> None:
    record = clip_record(BASE, 0)
    with pytest.raises(InputError, match=words):
        ss.compare(record, with_clip(record, **changes))


def test_silent_clips_are_told_apart_by_name() -> None:
    record = with_clip(clip_record(BASE, 0), envelope=[])
    with pytest.raises(InputError, match="'clip-0' before and 'other' after"):
        ss.compare(record, with_clip(record, name="other"))


def test_a_file_that_was_renamed_is_the_same_clip() -> None:
    record = clip_record(BASE, 0)
    found = ss.compare(record, with_clip(record, name="other", path="elsewhere.mp4"))
    assert found.clips["clip"].tolist() == ["clip-0"]


def test_clips_in_another_order() -> None:
    with pytest.raises(InputError, match="in another order"):
        ss.compare(clips_record(), clips_record(clips=(1, 0, 2)))


def test_a_clip_and_a_text() -> None:
    record = clip_record(BASE, 0)
    with pytest.raises(InputError, match="one is of a text"):
        ss.compare(record, replace(record, clips=(None,)))


def test_layouts_that_are_shifted_by_one() -> None:
    record = clip_record(BASE, 0)
    labels = record.layouts[0].labels
    shifted = laid_out(record, labels=(labels[0], *labels[2:], "."))
    with pytest.raises(InputError, match=r"clip-0\) token 1 is '<audio>' before and 'a0' after"):
        ss.compare(record, shifted)


def test_other_segments_seconds_and_references() -> None:
    record = clip_record(BASE, 0)
    layout = record.layouts[0]
    segments = tuple("text" if one == "instruction" else one for one in layout.segments)
    with pytest.raises(InputError, match="is 'instruction' before and 'text' after"):
        ss.compare(record, laid_out(record, segments=segments))
    with pytest.raises(InputError, match="other seconds"):
        ss.compare(record, laid_out(record, seconds=layout.seconds + 0.04))
    with pytest.raises(InputError, match="the reference token is 0 before and 3 after"):
        ss.compare(record, laid_out(record, reference=3))


def test_a_token_more() -> None:
    record = clip_record(BASE, 0)
    longer = with_clip(clip_record(BASE, 0, tokens=41), text=record.clips[0].text)  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(InputError, match="40 tokens before and 41 after"):
        ss.compare(record, longer)


def test_with_and_without_bos() -> None:
    with pytest.raises(InputError, match="1 samples have a BOS before and 0 after"):
        ss.compare(clip_record(BASE, 0), clip_record(BASE, 0, has_bos=False))


def test_word_errors() -> None:
    record = clips_record()
    texts = [clip.text for clip in record.clips if clip]
    wrong = ["bin red at f two", "lay red", texts[2]]
    wer = ss.transcript_errors(texts, texts, wrong)
    found = ss.compare(record, record, wer=wer)
    row = found.effects.set_index("metric").loc["wer"]
    assert row[["before", "after", "change"]].tolist() == pytest.approx([0, 5 / 17, 5 / 17])
    assert 0 <= row["low"] <= row["change"] <= row["high"]
    assert "Word error rate: from 0 to 29.4 %" in ss.describe(found)
    assert found.clips["transcript_after"].tolist() == wrong
    with pytest.raises(InputError, match="no column 'words'"):
        ss.compare(record, record, wer=pd.DataFrame({"errors": [1, 2, 3]}))
    with pytest.raises(InputError, match="2 rows for 3 clips"):
        ss.compare(record, record, wer=wer.head(2))


def test_word_errors_where_a_text_is_unknown() -> None:
    record = clips_record()
    wer = ss.transcript_errors(["bin blue", "", "lay red"], ["bin blue"] * 3, ["bin", "x", "lay"])
    row = ss.compare(record, record, wer=wer).effects.set_index("metric").loc["wer"]
    assert row[["before", "after", "clips"]].tolist() == pytest.approx([2 / 4, 2 / 4, 2])


def test_a_clip_that_comes_twice_is_paired_by_its_place() -> None:
    twice = merge([clip_record(BASE, 0), clip_record(BASE, 0)])
    assert len(ss.compare(twice, twice).clips) == 2


def test_another_picture_is_another_clip_where_it_was_seen() -> None:
    record = clips_record()
    pictured = [replace(clip, picture=name) for clip, name in zip(record.clips, "abc", strict=True)]
    other = replace(record, clips=(*pictured[:2], replace(pictured[2], picture="x")))
    with pytest.raises(InputError, match="differs in its picture"):
        ss.compare(replace(record, clips=tuple(pictured)), other)
    ss.compare(record, other)  # a record of an older version does not say
