"""Batches of like length: every clip once, none too large, and planned without decoding."""

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from sinkscope.avsr import decode
from sinkscope.avsr.batching import Batch, bucket, frames_of, load_batches
from sinkscope.avsr.clip import Clip
from sinkscope.avsr.manifest import Entry, Failure
from sinkscope.errors import InputError
from tests.media_files import chirp, movie
from tests.shared_data import shared


def size(lengths, batch, padded=True):
    chosen = [lengths[number] for number in batch]
    return max(chosen) * len(chosen) if padded else sum(chosen)


def read_frames(entry):
    """A reader without a file: the clip has as many frames as its name says."""
    if entry.text == "bad":
        raise InputError(f"{entry.path} is bad.")
    return Clip(None, np.zeros((int(entry.path.stem), 2, 2), np.uint8))


# --- planning ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 120), min_size=1, max_size=60),
    padded=st.booleans(),
    seed=st.none() | st.integers(0, 5),
)
def test_every_clip_is_in_one_batch_and_no_batch_is_too_large(lengths, padded, seed):
    batches = bucket(lengths, max_frames=100, padded=padded, seed=seed)
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or size(lengths, batch, padded) <= 100


@pytest.mark.parametrize("seed", [None, 3])
def test_little_of_a_batch_is_padding(seed):
    lengths = np.random.default_rng(0).integers(20, 150, 2000).tolist()
    batches = bucket(lengths, max_frames=1500, seed=seed)
    held = sum(size(lengths, batch) for batch in batches)
    assert held < 1.05 * sum(lengths)
    assert len(batches) < 1.1 * sum(lengths) / 1500
    as_they_come = [range(start, start + 10) for start in range(0, 2000, 10)]
    assert sum(size(lengths, batch) for batch in as_they_come) > 1.4 * sum(lengths)


def test_without_a_seed_the_longest_come_first_and_with_one_epochs_differ():
    lengths = np.random.default_rng(0).integers(20, 150, 300).tolist()
    plain = bucket(lengths, max_frames=600)
    longest = [max(lengths[number] for number in batch) for batch in plain]
    assert longest == sorted(longest, reverse=True)
    assert plain == bucket(lengths, max_frames=600)
    first, again, second = (bucket(lengths, max_frames=600, seed=seed) for seed in (0, 0, 1))
    assert first == again
    together = [{frozenset(batch) for batch in batches} for batches in (first, second)]
    assert len(together[0] & together[1]) < 0.2 * len(first), "the same clips meet in every epoch"
    longest = [max(lengths[number] for number in batch) for batch in first]
    assert longest != sorted(longest, reverse=True)


def test_a_batch_below_one_frame_is_refused():
    with pytest.raises(InputError, match="A batch of 0 frames"):
        bucket([1], max_frames=0)


# --- lengths -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_lengths_come_from_the_header(tmp_path, monkeypatch, name):
    codecs = {"video_codec": "mpeg4"} if name == "a.avi" else {}
    path = movie(1.6, sound=False, **codecs).write(tmp_path / name)

    def refuse(*_):
        raise AssertionError("something was decoded")

    monkeypatch.setattr(decode.Decoder, "_decode", refuse)
    assert frames_of(Entry(path)) == 40
    assert frames_of(Entry(tmp_path / "gone.mp4", frames=7)) == 7


def test_lengths_of_sound_of_pairs_and_of_real_clips(tmp_path):
    soundfile.write(tmp_path / "a.wav", chirp(2.0, 16_000), 16_000)
    picture = movie(1.6, sound=False).write(tmp_path / "a.mp4")
    assert frames_of(Entry(tmp_path / "a.wav")) == 50
    assert frames_of(Entry((tmp_path / "a.wav", picture))) == 50
    assert frames_of(Entry(shared("data/grid/bbaf2n.mpg"))) == pytest.approx(75, abs=1)


def test_a_header_that_does_not_tell_is_replaced_by_the_packets_times(tmp_path):
    recorded = movie(1.2, sound=False, video_codec="libvpx", options={"live": "1"})
    live = recorded.write(tmp_path / "live.webm")
    with av.open(str(live)) as container:
        assert container.duration is None, "the header tells"
    assert frames_of(Entry(live)) == pytest.approx(30, abs=1)


def test_a_file_that_is_gone_or_no_movie_is_refused(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"x" * 1000)
    for name in ("gone.mp4", "bad.mp4"):
        with pytest.raises(InputError, match=name):
            frames_of(Entry(tmp_path / name))


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_hold_their_clips_and_failures_are_handed_over(workers):
    entries = [Entry(Path(f"{n}.mp4"), frames=n) for n in (10, 30, 10, 10, 29)]
    entries[2] = Entry(Path("10.mp4"), "bad", frames=10)
    found = list(load_batches(entries, max_frames=60, workers=workers, read=read_frames))
    batches = [one for one in found if isinstance(one, Batch)]
    assert [batch.numbers for batch in batches] == [(1, 4), (0, 3)]
    assert [[len(clip.frames) for clip in batch.clips] for batch in batches] == [[30, 29], [10, 10]]
    (failure,) = [one for one in found if isinstance(one, Failure)]
    assert failure.reason == "10.mp4 is bad."


def test_headers_that_lie_do_not_make_a_batch_too_large():
    entries = [Entry(Path(f"{n}.mp4"), frames=5) for n in (30, 25, 80, 10, 10)]
    batches = list(load_batches(entries, max_frames=60, read=read_frames))
    assert [batch.numbers for batch in batches] == [(0, 1), (2,), (3, 4)]


def test_a_file_that_cannot_be_opened_does_not_stop_the_plan(tmp_path):
    good = movie(0.4, sound=False).write(tmp_path / "good.mp4")
    found = list(load_batches([Entry(tmp_path / "gone.mp4"), Entry(good)]))
    assert {type(one) for one in found} == {Failure, Batch}
