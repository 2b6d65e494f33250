from pathlib import Path

import pytest

from sinkscope.cli.inputs import _pairs, read_inputs
from sinkscope.cli.options import parse_layers
from sinkscope.errors import InputError


def test_layers_are_numbers_and_ranges() -> None:
    assert parse_layers("7,0-2") == [0, 1, 2, 7]
    assert parse_layers(None) is None
    for wrong in ("a", "1-", "-1", "1,,2", ""):
        with pytest.raises(InputError, match="--layers"):
            parse_layers(wrong)


def test_texts_and_files_are_told_apart(tmp_path) -> None:
    assert read_inputs(["The cat sat."]) == ["The cat sat."]
    assert read_inputs(["word"]) == ["word"]
    with pytest.raises(InputError, match=r"clip\.mp4: there is no such file"):
        read_inputs([str(tmp_path / "clip.mp4")])
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="mixes files and text"):
        read_inputs([str(tmp_path / "a.txt"), "some text"])


def test_sound_and_picture_of_one_stem_make_one_clip() -> None:
    a_wav, a_mp4, b_mp4, b_mkv = map(Path, ("a.wav", "a.mp4", "b.mp4", "b.mkv"))
    assert _pairs([a_mp4, a_wav, b_mp4]) == [(a_wav, a_mp4), b_mp4]
    assert _pairs([b_mp4, b_mkv]) == [b_mp4, b_mkv]
