"""Landmarks from files, arrays and models; what is none is refused, and no file is run."""

import json
import os
import pickle

import numpy as np
import pytest

from sinkscope.avsr.landmarks import find_landmarks, open_landmarks
from sinkscope.errors import InputError

RNG = np.random.default_rng(0)
MARKS = RNG.uniform(0, 200, (5, 68, 2)).astype(np.float32)
MARKS[2] = np.nan
LIST = [None if i == 2 else frame for i, frame in enumerate(MARKS)]


def a_model(image):
    """A landmark model that a user names."""
    return None if image.mean() > 100 else np.full((68, 2), image.mean())


def test_every_kind_of_file_gives_the_same_points(tmp_path):
    np.save(tmp_path / "a.npy", MARKS)
    np.savez(tmp_path / "a.npz", MARKS)
    np.savez_compressed(tmp_path / "b.npz", landmarks=MARKS, scores=np.ones(5))
    plain = [None if frame is None else frame.tolist() for frame in LIST]
    (tmp_path / "a.json").write_text(json.dumps(plain))
    (tmp_path / "b.json").write_text(json.dumps({"landmarks": plain, "fps": 25}))
    for protocol in range(2, 6):
        (tmp_path / f"{protocol}.pkl").write_bytes(pickle.dumps(LIST, protocol))
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({"landmarks": MARKS.astype(">f8")}))
    (tmp_path / "d.pkl").write_bytes(pickle.dumps(np.asfortranarray(MARKS)))
    (tmp_path / "e.pkl").write_bytes(
        pickle.dumps([[[np.float32(x) for x in p] for p in f] for f in MARKS])
    )
    files = sorted(tmp_path.iterdir())
    assert len(files) == 12
    for file in files:
        np.testing.assert_allclose(open_landmarks(file), MARKS, rtol=1e-6, err_msg=file.name)
    np.testing.assert_array_equal(open_landmarks(str(files[0])), open_landmarks(files[0]))


def test_arrays_and_lists_are_taken_and_depth_is_left_out():
    np.testing.assert_array_equal(open_landmarks(MARKS), MARKS)
    np.testing.assert_array_equal(open_landmarks(LIST), MARKS)
    deep = np.concatenate([MARKS, np.ones((5, 68, 1), np.float32)], axis=2)
    np.testing.assert_array_equal(open_landmarks(deep), MARKS)


def test_one_point_that_is_missing_makes_the_frame_missing():
    holes = MARKS.copy()
    holes[4, 60, 1] = np.inf
    assert np.isnan(open_landmarks(holes)[4]).all()
    assert not np.isnan(open_landmarks(holes)[3]).any()


# --- models --------------------------------------------------------------------------------------


def test_a_model_is_asked_once_for_each_picture():
    asked = []

    def model(image):
        asked.append(image)
        return a_model(image)

    dark, light = np.full((4, 4), 10, np.uint8), np.full((4, 4), 200, np.uint8)
    marks = find_landmarks([dark, dark, light, dark.copy()], open_landmarks(model))
    np.testing.assert_array_equal(marks[:, 0, 0], [10, 10, np.nan, 10])
    assert len(asked) == 3


def test_a_model_is_found_by_its_name():
    assert open_landmarks("tests.test_avsr_landmarks:a_model") is a_model
    for name in (
        "tests.test_avsr_landmarks:none",
        "no.such.module:f",
        "tests.test_avsr_landmarks:",
    ):
        with pytest.raises(InputError, match="is no file and no function"):
            open_landmarks(name)
    with pytest.raises(InputError, match="is no function but a ndarray"):
        open_landmarks("tests.test_avsr_landmarks:MARKS")


def test_a_model_that_sees_nothing_or_answers_wrongly_is_refused():
    light = np.full((4, 4), 200, np.uint8)
    with pytest.raises(InputError, match="landmark model: no frame of 2 has a face"):
        find_landmarks([light, light.copy()], a_model)
    with pytest.raises(InputError, match=r"landmark model, frame 0: found \(5, 2\) numbers"):
        find_landmarks([light], lambda image: np.zeros((5, 2)))


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", "[[1, 2]]", r"a\.json, frame 0: found \(2,\) numbers; give 68 points"),
        ("a.json", "[null, null]", "no frame of 2 has a face"),
        ("a.json", "[]", "no frame of 0 has a face"),
        ("a.json", '["abc"]', r"frame 0: the points are no numbers"),
        ("a.json", '"abc"', "found a str; give one row of 68 points a frame"),
        ("a.json", '{"points": []}', r"holds points, and no 'landmarks'"),
        ("a.json", "[[1, 2", "is no JSON"),
        ("a.json", "[" * 100_000, "is no JSON"),
        ("a.npy", "\x93NUMPY", "is damaged"),
        ("a.npz", "PK\x03\x04 and no more", "is damaged"),
        ("a.pkl", "no pickle", "is no whole pickle"),
        ("a.mat", "", r"landmarks are read from \.npy, \.npz, \.json, \.pkl files"),
    ],
)
def test_files_that_are_no_landmarks_are_refused_in_a_sentence(tmp_path, name, content, reason):
    (tmp_path / name).write_text(content, encoding="latin1")
    with pytest.raises(InputError, match=reason) as caught:
        open_landmarks(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_file_that_is_missing_and_objects_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.npy does not exist"):
        open_landmarks(tmp_path / "gone.npy")
    np.save(tmp_path / "objects.npy", np.array(LIST, object), allow_pickle=True)
    with pytest.raises(InputError, match=r"objects\.npy is damaged, or holds objects"):
        open_landmarks(tmp_path / "objects.npy")
    (tmp_path / "objects.pkl").write_bytes(pickle.dumps(np.array([None, "a"], object)))
    with pytest.raises(InputError, match=r"objects\.pkl: it holds an array of object"):
        open_landmarks(tmp_path / "objects.pkl")


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_nothing_in_a_pickle_is_run(tmp_path, protocol):
    marker = tmp_path / "was_run"
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps([*LIST, Evil(marker)], protocol))
    with pytest.raises(InputError, match=r"evil\.pkl: it names (posix|nt|os)\.system"):
        open_landmarks(tmp_path / "evil.pkl")
    assert not marker.exists()
    assert pickle.loads(pickle.dumps(Evil(marker))) == 0, "the pickle is harmless in any reader"
    assert marker.exists()
