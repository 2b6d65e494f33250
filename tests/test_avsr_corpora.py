"""A folder, a manifest or a file becomes a corpus; what is bad is listed, and stops nothing."""

import shutil

import pytest

import sinkscope as ss
from sinkscope.avsr.corpora import read_corpus
from sinkscope.avsr.manifest import read_corpus_manifest, read_manifest
from sinkscope.errors import InputError


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


@pytest.fixture
def lrs(tmp_path):
    root = tmp_path / "lrs3"
    touch(
        root, "test/bob/00002.mp4", "test/bob/00001.mp4", "test/amy/00001.mp4", "test/.hidden.mp4"
    )
    (root / "test/amy/00001.txt").write_text("Text:  THAT'S  WHAT IT IS\nConf:  4\n\nWORD START\n")
    (root / "test/bob/00001.txt").write_text("Text:  BIN BLUE \r\nConf:  5\r\n")
    return root


# --- folders -------------------------------------------------------------------------------------


def test_an_lrs_folder_gives_clips_with_the_first_line_of_their_text(lrs):
    entries, failures = read_corpus(lrs)
    assert failures == []
    assert [(entry.name, entry.text) for entry in entries] == [
        ("test/amy/00001", "that's what it is"),
        ("test/bob/00001", "bin blue"),
        ("test/bob/00002", None),
    ]
    assert [entry.source for entry in entries] == sorted(lrs.rglob("0*.mp4"))


def test_sound_beside_a_picture_goes_with_it_and_other_files_are_left_alone(tmp_path):
    touch(tmp_path, "a.wav", "a.mp4", "b.FLAC", "c.mov", "notes.md", "c.json", "d.mp4", "d.avi")
    entries, _ = read_corpus(tmp_path)
    assert [entry.source for entry in entries] == [
        (tmp_path / "a.wav", tmp_path / "a.mp4"),
        tmp_path / "b.FLAC",
        tmp_path / "c.mov",
        tmp_path / "d.avi",
        tmp_path / "d.mp4",
    ]
    assert entries[0].path == tmp_path / "a.mp4"


def test_a_text_that_is_none_is_listed_and_the_rest_goes_on(lrs):
    (lrs / "test/bob/00002.txt").write_bytes(b"Text:  \xff\xfe\x00")
    entries, failures = read_corpus(lrs)
    assert [entry.name for entry in entries] == ["test/amy/00001", "test/bob/00001"]
    assert failures[0].source == lrs / "test/bob/00002.mp4"
    assert "00002.txt: a transcript is UTF-8" in failures[0].reason


def test_an_empty_folder_and_a_path_that_is_none_are_refused(tmp_path):
    touch(tmp_path, "notes.md")
    with pytest.raises(InputError, match="holds no clip: no file in it ends as sound or video"):
        read_corpus(tmp_path)
    with pytest.raises(InputError, match=r"nowhere does not exist; give a folder"):
        read_corpus(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no such manifest"):
        read_corpus(tmp_path / "none.csv")


def test_one_file_is_a_corpus_of_one(tmp_path):
    touch(tmp_path, "a.mp4")
    entries, _ = read_corpus(tmp_path / "a.mp4")
    assert [(entry.source, entry.name) for entry in entries] == [(tmp_path / "a.mp4", "a")]


# --- the authors' lists --------------------------------------------------------------------------

FIVE = "lrs3,test/amy/00001.mp4,75,12 5 9,that's what it is\n"


def test_five_columns_below_a_root(lrs):
    (lrs.parent / "elsewhere").mkdir()
    manifest = lrs.parent / "elsewhere" / "test.csv"
    manifest.write_text(FIVE + "lrs3,test/bob/00001.mp4,50,4,bin blue\n")
    (lrs / "test/bob/00001.wav").write_bytes(b"x")
    entries = read_manifest(manifest, root=lrs.parent)
    assert entries == read_corpus(manifest, root=lrs.parent).entries
    assert [entry.frames for entry in entries] == [75, 50]
    assert entries[0].name == "lrs3/test/amy/00001"
    assert entries[0].row == f"{manifest}, row 1"
    bob = lrs / "test/bob/00001"
    assert entries[1].source == (bob.with_suffix(".wav"), bob.with_suffix(".mp4"))
    with pytest.raises(InputError, match=r"row 1: there is no file .*mend the row or the root"):
        read_manifest(manifest)
    with pytest.raises(InputError, match="there is no such folder; give the root of test"):
        read_manifest(manifest, root=lrs / "nowhere")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("lrs3,test/bob/00001.mp4,50,bin blue", "found 4 columns"),
        ("lrs3,test/bob/00001.mp4,50,4,bin, blue", "found 6 columns"),
        ("lrs3,test/bob/00001.mp4,long,4,bin", "input_length is 'long'"),
        ("lrs3,test/bob/00001.mp4,-5,4,bin", "input_length is '-5'"),
        ("lrs3,test/bob/00009.mp4,50,4,bin", "there is no file"),
        (f"lrs3,{'x' * 5000},50,4,bin", "there is no file"),
    ],
)
def test_a_bad_row_is_named_and_the_others_are_read(lrs, row, reason):
    manifest = lrs.parent / "test.csv"
    manifest.write_text(f"{FIVE}\n{row}\n{FIVE}")
    corpus = read_corpus_manifest(manifest)
    assert [entry.row for entry in corpus.entries] == [f"{manifest}, row {n}" for n in (1, 4)]
    (failure,) = corpus.failures
    assert failure.reason.startswith(f"{manifest}, row 3: {reason}")
    assert failure.reason.count(". ") == 0, "more than a sentence"
    with pytest.raises(InputError, match=rf"row 3: {reason}"):
        read_manifest(manifest)


def test_a_manifest_of_nothing_but_bad_rows_is_refused(lrs):
    manifest = lrs.parent / "test.csv"
    manifest.write_text("lrs3,a.mp4,5,4,bin\nlrs3,b.mp4,5,4,bin\n")
    with pytest.raises(InputError, match=r"row 1: there is no file .*All 2 rows"):
        read_corpus(manifest)
    manifest.write_text("path,text\n")
    with pytest.raises(InputError, match="a header and no rows"):
        read_corpus(manifest)


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(lrs):
    manifest = lrs.parent / "test.csv"
    manifest.write_bytes(b"\xef\xbb\xbf" + FIVE.replace("\n", "\r\n").encode())
    (entry,) = read_manifest(manifest)
    assert (entry.source, entry.text) == (lrs / "test/amy/00001.mp4", "that's what it is")
    manifest.write_bytes(b"\xef\xbb\xbfpath,text\r\nlrs3/test/amy/00001.mp4,bin\r\n")
    assert read_manifest(manifest)[0].text == "bin"


# --- landmarks -----------------------------------------------------------------------------------


def test_landmarks_lie_where_the_clip_lies_below_its_root(lrs):
    folder = lrs.parent / "marks"
    touch(folder, "test/amy/00001.npy", "test/bob/00001.json", "00002.npy")
    entries, failures = read_corpus(lrs, landmarks=folder)
    assert [entry.landmarks for entry in entries] == [
        folder / "test/amy/00001.npy",
        folder / "test/bob/00001.json",
    ]
    assert "test/bob/00002.mp4 has no landmarks: no file" in failures[0].reason
    with pytest.raises(InputError, match="None of the clips has; check the folder"):
        read_corpus(lrs, landmarks=lrs)
    with pytest.raises(InputError, match="no such folder of landmarks"):
        read_corpus(lrs, landmarks=folder / "none")


def test_landmarks_of_a_manifest_lie_below_its_root(lrs):
    manifest, folder = lrs.parent / "test.csv", lrs.parent / "marks"
    manifest.write_text(FIVE)
    touch(folder, "lrs3/test/amy/00001.npz")
    (entry,) = read_corpus(manifest, landmarks=folder).entries
    assert entry.landmarks == folder / "lrs3/test/amy/00001.npz"


def test_the_bundled_clips_are_a_corpus_with_texts(tmp_path):
    for path in ss.bundled_clips():
        shutil.copy(path, tmp_path)
        shutil.copy(path.with_suffix(".json"), tmp_path)
    texts = [entry.text for entry in read_corpus(tmp_path).entries]
    assert texts == [ss.read_clip(path).text for path in ss.bundled_clips()]
