"""By landmarks the mouth stays upright, centred and of one size, however the face moves."""

import cv2
import numpy as np
import pytest

from sinkscope.avsr.alignment import MEAN_FACE, STABLE, align, warp_mouth
from sinkscope.avsr.corpora import read_corpus
from sinkscope.avsr.loading import load_clip
from sinkscope.avsr.media import read_clip
from sinkscope.errors import InputError
from tests.media_files import Movie

FRAMES = 50
CANVAS = 300
"""Side of the square on which the face is drawn upright, at 2 pixels a unit."""


def upright_face():
    """68 points of a longer face than the mean one, in units around the middle of its eyes."""
    face = np.random.default_rng(0).uniform((-60, -30), (60, 100), (68, 2))
    stable = np.array(
        [(1, 12), (0, 52), (-47, 1), (-15, 0), (14, 0), (46, 1), (-25, 77), (25, 76)], np.float64
    )
    for span, points, width in ((slice(48, 60), 12, 25), (slice(60, 68), 8, 19)):
        angle = np.linspace(np.pi, 3 * np.pi, points, endpoint=False)
        face[span] = np.stack([width * np.cos(angle), 76.5 + width / 3 * np.sin(angle)], axis=1)
    face[list(STABLE)] = stable
    return face


FACE = upright_face()


def moves(frames=FRAMES, *, zoom=0.12, turn=10, fps=25):
    """One similarity a frame, from units to pixels of a 400 × 300 picture: shift, turn, zoom."""
    t = np.arange(frames) / fps
    angle = np.radians(turn * np.sin(2 * np.pi * 0.3 * t))
    scale = 1.0 + zoom * np.sin(2 * np.pi * 0.4 * t)
    matrices = np.zeros((frames, 2, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = scale * np.cos(angle)
    matrices[:, 0, 1], matrices[:, 1, 0] = -scale * np.sin(angle), scale * np.sin(angle)
    matrices[:, 0, 2] = 200 + 50 * np.sin(2 * np.pi * 0.4 * t)
    matrices[:, 1, 2] = 110 + 25 * np.cos(2 * np.pi * 0.3 * t)
    return matrices


def carry(matrices, points):
    return np.einsum("fij,pj->fpi", matrices[:, :, :2], points) + matrices[:, None, :, 2]


def pictures(matrices):
    """A face whose corners of the mouth are bright blobs, and the chin's tip a third one."""
    y, x = np.mgrid[:CANVAS, :CANVAS]
    canvas = np.full((CANVAS, CANVAS), 30.0)
    for px, py in [*FACE[[48, 54]], (0, 100)]:
        centre = 2 * np.array([px, py]) + (150, 60)
        canvas += 200 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * 6**2))
    drawn = canvas.clip(0, 255).astype(np.uint8)
    units = np.array([[0.5, 0, -75], [0, 0.5, -30], [0, 0, 1]])
    return [
        cv2.warpAffine(drawn, (matrix @ units)[:2], (400, 300), borderMode=cv2.BORDER_REPLICATE)
        for matrix in matrices
    ]


def blobs(frame):
    """Middle of the left and the right corner of the mouth, and of the chin, in a crop."""
    image = np.where(frame > 60, frame.astype(float) - 60, 0)
    halves = {"left": np.s_[:62, :48], "right": np.s_[:62, 48:], "chin": np.s_[62:, :]}
    found = []
    for rows, columns in halves.values():
        part = image[rows, columns]
        y, x = np.mgrid[: part.shape[0], : part.shape[1]]
        place = np.array([(x * part).sum(), (y * part).sum()]) / part.sum()
        found.append(place + np.array([columns.start or 0, rows.start or 0]))
    return np.array(found)


def write(images, path):
    times = [index / 25 for index in range(len(images))]
    return Movie(pictures=images, times=times, video_codec="ffv1", pix_fmt="gray").write(path)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    return write(pictures(moves()), folder / "face.mkv")


def off(clip):
    """Largest distance of a blob from its mean place over the frames, in pixels of the crop."""
    places = np.array([blobs(frame) for frame in clip.frames])
    return np.linalg.norm(places - places.mean(axis=0), axis=-1).max(), places.mean(axis=0)


# --- pictures ------------------------------------------------------------------------------------


def test_the_mouth_of_a_moving_face_stays_where_it_is(video):
    clip = read_clip(video, landmarks=carry(moves(), FACE))
    assert clip.frames.shape == (FRAMES, 96, 96)
    assert (clip.crop.method, clip.crop.detected) == ("landmarks", 1.0)
    worst, (left, right, chin) = off(clip)
    assert worst < 0.8
    np.testing.assert_allclose((left + right) / 2, 47.5, atol=0.5)
    assert abs(np.degrees(np.arctan2(*(right - left)[::-1]))) < 2, "the mouth is not upright"
    assert 45 < right[0] - left[0] < 55, "the mouth has not about the mean face's width"
    assert chin[1] > 60
    assert abs(chin[0] - 47.5) < 1


def test_the_face_of_these_tests_moves_turns_and_grows():
    marks = carry(moves(), FACE)
    eyes = marks[:, 45] - marks[:, 36]
    assert np.ptp(np.degrees(np.arctan2(eyes[:, 1], eyes[:, 0]))) > 15
    assert np.linalg.norm(eyes, axis=1).max() > 1.25 * np.linalg.norm(eyes, axis=1).min()
    assert (np.ptp(marks[:, 48:68].mean(axis=1), axis=0) > 40).all()


def test_landmarks_that_are_a_frame_late_are_caught(video):
    marks = carry(moves(), FACE)
    late = np.concatenate([marks[:1], marks[:-1]])
    assert off(read_clip(video, landmarks=late))[0] > 1.5
    clip = read_clip(video, landmarks=marks)
    late = read_clip(video, landmarks=late)
    assert off(late)[0] > 4 * off(clip)[0]


def test_jitter_in_single_points_is_smoothed(video):
    marks = carry(moves(), FACE)
    noise = np.random.default_rng(1).normal(0, 1.5, marks.shape)
    noise -= noise.mean(axis=1, keepdims=True)
    clip = read_clip(video, landmarks=marks + noise)
    worst, _ = off(clip)
    assert worst < 1.0


def test_missing_frames_are_bridged_and_counted(video):
    marks = carry(moves(), FACE)
    missing = [10, 11, 12, 25, 40, 41]
    marks[missing] = np.nan
    clip = read_clip(video, landmarks=marks)
    assert clip.crop.detected == pytest.approx(44 / 50)
    assert any("Landmarks are known in 88% of the frames" in note for note in clip.notes)
    assert off(clip)[0] < 1.0
    held = marks.copy()
    held[10:13], held[25], held[40:42] = held[9], held[24], held[39]
    assert off(read_clip(video, landmarks=held))[0] > 2.0, "a held place would do as well"


def test_at_the_ends_the_nearest_place_is_kept():
    marks = carry(moves(), FACE)
    marks[:3] = marks[-2:] = np.nan
    boxes = align(marks).boxes
    np.testing.assert_allclose(boxes[:3, 0], boxes[3, 0], atol=2.0)
    assert np.isfinite(boxes).all()


def test_a_model_a_file_and_a_corpus_give_the_same_crops(video, tmp_path):
    marks = carry(moves(), FACE)
    np.save(tmp_path / "face.npy", marks)
    clip = read_clip(video, landmarks=marks)
    numbers = iter(range(FRAMES))
    by_model = read_clip(video, landmarks=lambda image: marks[next(numbers)])
    (entry,) = read_corpus(video, landmarks=tmp_path).entries
    for other in (by_model, read_clip(video, landmarks=tmp_path / "face.npy"), load_clip(entry)):
        np.testing.assert_allclose(other.frames.astype(int), clip.frames, atol=1)
        assert other.crop.method == "landmarks"


def test_a_model_is_asked_about_the_pictures(video):
    sizes = set()

    def model(image):
        sizes.add((image.shape, image.dtype.name))
        return FACE + 150

    read_clip(video, landmarks=model)
    assert sizes == {((300, 400), "uint8")}


def test_a_large_face_is_averaged_down_and_keeps_its_place(tmp_path):
    matrices = moves(12)
    small = read_clip(
        write(pictures(matrices), tmp_path / "a.mkv"), landmarks=carry(matrices, FACE)
    )
    scaled = [cv2.resize(image, None, fx=4, fy=4) for image in pictures(matrices)]
    rng = np.random.default_rng(0)
    grain = [np.clip(i + rng.normal(0, 20, i.shape), 0, 255).astype(np.uint8) for i in scaled]
    marks = 4 * carry(matrices, FACE) + 1.5  # the middle of a pixel, four times as large
    large = read_clip(write(grain, tmp_path / "b.mkv"), landmarks=marks)
    difference = large.frames.astype(float) - small.frames
    assert difference.std() < 12, "the grain was sampled and not averaged"
    places = [np.array([blobs(frame) for frame in clip.frames]) for clip in (small, large)]
    np.testing.assert_allclose(places[0], places[1], atol=0.5)


def test_rows_are_the_files_pictures_whatever_its_frame_rate(tmp_path):
    matrices = moves(60, fps=30)
    times = [index / 30 for index in range(60)]
    movie = Movie(
        pictures=pictures(matrices),
        times=times,
        video_codec="ffv1",
        pix_fmt="gray",
        frame_rate=30,
    )
    path = movie.write(tmp_path / "thirty.mkv")
    clip = read_clip(path, landmarks=carry(matrices, FACE))
    assert len(clip.frames) == 50
    assert off(clip)[0] < 1
    shown = np.floor((np.arange(50) + 0.5) / 25 * 30 + 1e-3).astype(int)
    steady = read_clip(path, landmarks=carry(matrices, FACE)[shown])
    np.testing.assert_array_equal(steady.frames, clip.frames)
    with pytest.raises(InputError, match=r"59 frames of landmarks are given for 60 pictures \(50"):
        read_clip(path, landmarks=carry(matrices, FACE)[:-1])


def test_landmarks_that_do_not_fit_are_refused(video):
    marks = carry(moves(), FACE)
    with pytest.raises(InputError, match=r"face\.mkv: 49 frames of landmarks are given for 50"):
        read_clip(video, landmarks=marks[:-1])
    with pytest.raises(InputError, match=r"face\.mkv: The landmarks are no face in the order"):
        read_clip(video, landmarks=marks[:, :, ::-1])
    with pytest.raises(InputError, match=r"are given; choose one of them"):
        read_clip(video, landmarks=marks, crop="face")
    with pytest.raises(InputError, match="mean_face is given without landmarks"):
        read_clip(video, mean_face=MEAN_FACE)


# --- geometry ------------------------------------------------------------------------------------


def test_every_matrix_undoes_its_frames_move():
    marks = carry(moves(), FACE)
    alignment = align(marks)
    back = np.einsum("fij,fpj->fpi", alignment.matrices[:, :, :2], marks)
    back += alignment.matrices[:, None, :, 2]
    np.testing.assert_allclose(back[:, 48:68].mean(axis=1), 47.5, atol=0.5)
    spread = np.linalg.norm(back[:, 36:] - back[:, 36:].mean(axis=0), axis=-1)
    assert spread.max() < 2.0  # of the eyes, which are far from the crop
    assert spread[:, 12:].max() < 0.8
    assert alignment.cuts == []


def test_the_mean_face_itself_comes_to_one_pixel_a_unit():
    face = FACE.copy()
    face[list(STABLE)] = MEAN_FACE
    (matrix,) = align(3 * face[None] + 40).matrices
    np.testing.assert_allclose(matrix[:, :2], np.eye(2) / 3, atol=1e-9)
    (matrix,) = align(face[None], mean_face=1.5 * face).matrices
    np.testing.assert_allclose(matrix[:, :2], 1.5 * np.eye(2), atol=1e-9)
    with pytest.raises(InputError, match=r"mean_face: found \(67, 2\) numbers"):
        align(face[None], mean_face=face[1:])


def test_the_turn_is_the_right_way_round():
    turned = carry(moves(1, zoom=0, turn=0), FACE)
    angle = np.radians(15)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    (matrix,) = align(turned @ turn.T).matrices
    recovered = np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))
    upright = align(turned).matrices[0]
    assert recovered - np.degrees(np.arctan2(upright[1, 0], upright[0, 0])) == pytest.approx(-15)


def test_smoothing_takes_twelve_frames_and_keeps_the_faces_place():
    marks = np.repeat(carry(moves(1), FACE), 41, axis=0)
    marks[20, 48] += (0, 13)  # one point jumps once
    matrices = align(marks).matrices
    touched = np.flatnonzero(np.abs(matrices - matrices[0]).max(axis=(1, 2)) > 1e-9)
    np.testing.assert_array_equal(touched, np.arange(14, 27))
    walk = np.repeat(carry(moves(1), FACE), 41, axis=0)
    walk[:, :, 0] += 3 * (np.arange(41)[:, None] % 2)  # the whole face jumps to and fro
    boxes = align(walk).boxes
    np.testing.assert_allclose(np.abs(np.diff(boxes[:, 0])), 3, atol=1e-4)


def test_nothing_is_bridged_or_smoothed_across_a_cut():
    here, there = carry(moves(1), FACE), carry(moves(1), FACE)
    there = (there - there.mean()) * 0.5 + 300
    marks = np.concatenate([np.repeat(here, 20, axis=0), np.repeat(there, 20, axis=0)])
    marks[18:23] = np.nan
    alignment = align(marks)
    assert alignment.cuts == [23]
    for shot in (alignment.matrices[:23], alignment.matrices[23:]):
        np.testing.assert_allclose(shot, np.broadcast_to(shot[0], shot.shape), atol=1e-9)
    assert alignment.boxes[-1, 2] == pytest.approx(alignment.boxes[0, 2] / 2)


def test_boxes_lie_around_the_mouth():
    marks = carry(moves(), FACE)
    boxes = align(marks).boxes
    middle = boxes[:, :2] + (boxes[:, 2:] - 1) / 2
    np.testing.assert_allclose(middle, marks[:, 48:68].mean(axis=1), atol=0.5)


def test_outside_of_the_picture_the_border_is_repeated():
    matrix = np.array([[1.0, 0, 80], [0, 1, 80]])
    assert (warp_mouth(np.full((50, 50), 77, np.uint8), matrix) == 77).all()
