import pytest

from sinkscope.avsr.manifest import read_manifest
from sinkscope.errors import InputError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "lrs" / "test").mkdir(parents=True)
    for name in ("a.mp4", "b.wav", "lrs/test/c.mp4", "lrs/test/c.wav", "lrs/test/d.mp4"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_a_list_of_paths(folder) -> None:
    (folder / "clips.txt").write_text("a.mp4\n\nb.wav\n")
    entries = read_manifest(folder / "clips.txt")
    assert [entry.source for entry in entries] == [folder / "a.mp4", folder / "b.wav"]
    assert entries[0].text is None


def test_a_header_names_the_columns(folder) -> None:
    (folder / "clips.csv").write_text('text,path\n"bin, blue",a.mp4\n,b.wav\n')
    first, second = read_manifest(folder / "clips.csv")
    assert (first.source, first.text) == (folder / "a.mp4", "bin, blue")
    assert second.text is None


@pytest.mark.parametrize("place", ["labels/list.csv", "list.csv"])
def test_the_authors_five_columns_and_the_sound_beside_the_picture(folder, place) -> None:
    (folder / "labels").mkdir()
    (folder / place).write_text("lrs,test/c.mp4,75,1 2 3,bin blue\nlrs,test/d.mp4,50,4,lay red\n")
    with_sound, without = read_manifest(folder / place)
    test = folder / "lrs" / "test"
    assert with_sound.source == (test / "c.wav", test / "c.mp4")
    assert without.source == test / "d.mp4"
    assert without.text == "lay red"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.txt", "a.mp4\nmissing.mp4\n", "row 2: there is no file"),
        ("m.csv", "path,text\n,bin\n", "row 2: the path is empty"),
        ("m.csv", "lrs,test/c.mp4,75,bin\n", "row 1: found 4 columns"),
        ("m.csv", "\n\n", "the manifest is empty"),
    ],
)
def test_bad_rows_are_named(folder, name, content, message) -> None:
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_manifest(folder / name)


def test_what_is_no_manifest_is_refused(folder) -> None:
    with pytest.raises(InputError, match="no such manifest"):
        read_manifest(folder / "none.csv")
    (folder / "m.csv").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(InputError, match="UTF-8"):
        read_manifest(folder / "m.csv")
