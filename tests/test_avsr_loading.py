"""Clips are read when they are asked for, in order, few at a time, and none ends the run."""

import gc
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.loading import load_clip, load_clips
from sinkscope.avsr.manifest import Entry, Failure
from sinkscope.errors import InputError
from tests.media_files import chirp, movie


def fake(number, text="said"):
    return Entry(Path(f"{number}.mp4"), text)


def read_number(entry, *, log=None):
    """A reader without a file: the clip tells its number, and slow ones come first."""
    number = int(entry.path.stem)
    if log:
        (Path(log) / f"{number}").touch()
    if entry.text == "bad":
        raise InputError(f"{entry.path} is\nbad.")
    if entry.text == "bug":
        raise ZeroDivisionError("by zero")
    if entry.text == "death":
        os._exit(3)
    if entry.text == "slow":
        time.sleep(0.2)
    return Clip(np.full(number, number, np.float32), None, text=entry.text)


def numbers(found):
    return [one.reason if isinstance(one, Failure) else len(one.waveform) for one in found]


def workers_now():
    return [child for child in psutil.Process().children() if "spawn_main" in str(child.cmdline())]


# --- in this process -----------------------------------------------------------------------------


def test_a_file_is_read_when_it_is_asked_for_and_not_before(tmp_path):
    (tmp_path / "list").mkdir()
    entries = [Entry(tmp_path / f"{i}.wav", f"text {i}") for i in range(3)]
    clips = load_clips(entries)
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", chirp(0.1 * (i + 1), 16_000), 16_000)
        clip = next(clips)
        assert (len(clip.waveform), clip.text) == (1600 * (i + 1), f"text {i}")
    with pytest.raises(StopIteration):
        next(clips)


def test_a_reader_gets_its_options(tmp_path):
    path = movie(0.2, sound=False, size=(200, 160)).write(tmp_path / "a.mp4")
    fixed = load_clips([Entry(path)], read=partial(load_clip, crop="fixed"))
    whole = load_clips([Entry(path)], read=partial(load_clip, crop="none"))
    assert next(fixed).crop.method == "fixed box"
    assert next(whole).crop.method == "already a mouth crop"


@pytest.mark.parametrize("workers", [0, 1])
def test_what_goes_wrong_is_one_sentence_with_its_row_and_the_rest_is_read(tmp_path, workers):
    good = tmp_path / "good.wav"
    soundfile.write(good, chirp(0.1, 16_000), 16_000)
    (tmp_path / "bad.mp4").write_bytes(b"no movie at all" * 100)
    entries = [
        Entry(tmp_path / "gone.mp4", row="test.csv, row 1"),
        Entry(good, "a"),
        Entry(tmp_path / "bad.mp4"),
        Entry(good, "b"),
    ]
    gone, a, bad, b = load_clips(entries, workers=workers)
    assert (a.text, b.text) == ("a", "b")
    assert gone.source == tmp_path / "gone.mp4"
    assert gone.reason.startswith(f"test.csv, row 1: {tmp_path}/gone.mp4 does not exist")
    assert bad.reason.startswith(f"{tmp_path}/bad.mp4 is not a media file")


def test_numbers_that_are_none_are_refused():
    with pytest.raises(InputError, match="-1 workers that read 4 clips ahead"):
        load_clips([fake(1)], workers=-1)
    with pytest.raises(InputError, match="cannot be handed"):
        load_clips([fake(1)], workers=1, read=lambda entry: read_number(entry))


# --- in other processes --------------------------------------------------------------------------


def test_workers_keep_the_order_and_read_only_a_little_ahead(tmp_path):
    taken = []

    def entries():
        for i in range(30):
            taken.append(i)
            yield fake(i, "slow" if i % 7 == 0 else "said")

    found = load_clips(entries(), workers=2, ahead=3, read=partial(read_number, log=tmp_path))
    assert taken == [], "something was begun before it was asked for"
    seen = []
    for clip in found:
        seen.append(len(clip.waveform))
        assert len(taken) <= len(seen) + 4
        assert len(list(tmp_path.iterdir())) <= len(seen) + 4
    assert seen == list(range(30))
    assert not workers_now()


def test_a_bug_a_bad_clip_and_a_death_are_each_their_own_clips_failure():
    said = ["said", "bad", "said", "death", "said", "bug", "said", "said", "death", "said"]
    entries = [fake(i, text) for i, text in enumerate(said)]
    found = numbers(load_clips(entries, workers=2, ahead=2, read=read_number))
    assert [one for one in found if isinstance(one, int)] == [0, 2, 4, 6, 7, 9]
    assert found[1] == "1.mp4 is bad."
    assert found[3] == "3.mp4 cannot be read: the process that reads it dies; leave it out."
    assert found[5] == "5.mp4 cannot be read (ZeroDivisionError: by zero); leave it out."
    assert found[8].startswith("8.mp4 cannot be read: the process")


def test_a_loop_that_is_left_leaves_no_process():
    found = load_clips([fake(i) for i in range(100)], workers=1, read=read_number)
    next(found)
    assert len(workers_now()) == 1
    found.close()
    gc.collect()
    assert not workers_now()


def test_a_caller_that_is_killed_leaves_no_process():
    code = (
        "import os, psutil; from pathlib import Path; from sinkscope.avsr.loading import *; "
        "from sinkscope.avsr.manifest import Entry; "
        "next(load_clips([Entry(Path('gone.mp4'))] * 100, workers=1)); "
        "print(*[child.pid for child in psutil.Process().children()], flush=True); "
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    children = [int(word) for word in killed.stdout.split()]
    assert children, killed.stderr
    deadline = time.monotonic() + 10
    while any(map(psutil.pid_exists, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(psutil.pid_exists, children))


def test_a_script_whose_workers_cannot_start_is_told_so(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from pathlib import Path\nfrom sinkscope.avsr.loading import load_clips\n"
        "from sinkscope.avsr.manifest import Entry\n"
        "list(load_clips([Entry(Path('gone.mp4'))], workers=1))\n"
    )
    told = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert told.returncode == 1
    assert "InputError: Worker processes cannot start here" in told.stderr
