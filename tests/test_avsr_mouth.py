"""The mouth's box follows the speaker's face, smoothly, at one scale, and never across a cut."""

import numpy as np
import pytest

from sinkscope.avsr.decode import Decoder
from sinkscope.avsr.faces import find_faces, find_faces_over_time, follow_face
from sinkscope.avsr.media import read_clip
from sinkscope.avsr.mouth import crop_mouth, mouth_boxes
from sinkscope.avsr.picture import steady_frames
from sinkscope.errors import InputError
from tests.media_files import Movie, clock_pictures, movie
from tests.shared_data import shared

NONE = np.zeros((0, 4), np.float32)


def faces(*rows):
    return np.array(rows, np.float32).reshape(-1, 4)


def lossless(pictures, path):
    times = [i / 25 for i in range(len(pictures))]
    return Movie(pictures=pictures, times=times, video_codec="ffv1", pix_fmt="gray").write(path)


def grid_frames(name):
    return list(steady_frames(Decoder(shared(f"data/grid/{name}.mpg"), "video")))


# --- which face ----------------------------------------------------------------------------------


def test_the_largest_lasting_face_is_followed_whatever_the_order():
    rng = np.random.default_rng(0)
    found = []
    for i in range(40):
        rows = faces([100 + i, 50, 80, 80], [300, 40, 50, 50])
        found.append(rows[rng.permutation(2)])
    np.testing.assert_array_equal(follow_face(found)[:, 0], 100 + np.arange(40))


def test_a_larger_face_that_comes_later_is_the_speaker():
    background = faces([300, 40, 50, 50])
    found = [background] * 10 + [np.concatenate([background, faces([100, 50, 80, 80])])] * 30
    followed = follow_face(found)
    assert (followed[10:, 0] == 100).all()
    assert np.isnan(followed[:10]).all(), "someone in the background stands in for the speaker"


def test_a_face_seen_twice_in_a_frame_is_one_face():
    rng = np.random.default_rng(0)
    twice = faces([100, 50, 80, 80], [108, 52, 76, 76])
    followed = follow_face([twice[rng.permutation(2)] for _ in range(20)])
    assert (followed[:, 0] == 100).all()


def test_a_huge_face_seen_once_does_not_take_over():
    found = [faces([100, 50, 80, 80])] * 10
    found[4] = faces([10, 10, 200, 200])
    followed = follow_face(found)
    assert np.isnan(followed[4]).all()
    assert (np.delete(followed[:, 0], 4) == 100).all()


def test_a_face_lost_for_less_than_a_second_is_the_same_face():
    found = [faces([100, 50, 80, 80])] * 10 + [NONE] * 20 + [faces([105, 50, 80, 80])] * 3
    followed = follow_face(found)
    assert np.isnan(followed[10:30]).all()
    assert (followed[30:, 0] == 105).all()


def test_another_shot_brings_another_face_but_a_glimpse_does_not():
    found = [faces([100, 50, 80, 80])] * 30 + [faces([300, 50, 60, 60])] * 20
    assert (follow_face(found)[30:, 0] == 300).all()
    glimpse = [faces([100, 50, 80, 80])] * 30 + [faces([300, 50, 60, 60])] * 3
    assert np.isnan(follow_face(glimpse)[30:]).all()


def test_no_face_gives_no_box():
    assert np.isnan(follow_face([NONE] * 3)).all()


# --- which box -----------------------------------------------------------------------------------


def test_missing_frames_lie_between_their_neighbours():
    track = np.full((61, 4), [0, 50, 80, 80], np.float32)
    track[:, 0] = 2 * np.arange(61)
    holes = track.copy()
    holes[[0, 1, 20, 21, 22, 60]] = np.nan
    boxes, cuts = mouth_boxes(holes)
    assert cuts == []
    whole, _ = mouth_boxes(track)
    np.testing.assert_allclose(boxes[10:50], whole[10:50], atol=1e-3)
    np.testing.assert_allclose(np.diff(boxes[15:45, 0]), 2, atol=1e-3)


def test_the_box_lies_below_the_middle_of_the_face_at_half_its_size():
    boxes, _ = mouth_boxes(faces(*[[100, 200, 120, 120]] * 9))
    np.testing.assert_allclose(boxes[4, :2] + boxes[4, 2:] / 2, [160, 200 + 0.79 * 120], atol=1e-3)
    assert (boxes[:, 2:] == 60).all()


def test_jitter_is_smoothed_and_the_scale_is_one():
    rng = np.random.default_rng(0)
    track = np.float32([100, 60, 90, 90]) + rng.normal(0, 2, (100, 4)).astype(np.float32)
    track[:, 3] = track[:, 2]
    track[50] = [108, 75, 100, 100]  # one bad sighting
    boxes, _ = mouth_boxes(track)
    assert np.abs(np.diff(boxes, axis=0)).max() < 1.5
    assert len(np.unique(boxes[:, 2:])) == 1
    track[:5, 2:] = 120  # the first sightings are too large
    assert abs(mouth_boxes(track)[0][0, 2] - boxes[0, 2]) <= 1


def test_nothing_is_smoothed_across_a_cut():
    track = np.concatenate([faces(*[[100, 60, 90, 90]] * 20), faces(*[[300, 60, 60, 60]] * 20)])
    track[15:22] = np.nan
    boxes, cuts = mouth_boxes(track)
    assert cuts == [22]
    assert len(np.unique(boxes[:22], axis=0)) == 1
    assert len(np.unique(boxes[22:], axis=0)) == 1
    assert boxes[0, 2] == 45
    assert boxes[-1, 2] == 30


# --- cutting out ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "place"), [(48, (30, 40)), (60, (31, 17)), (192, (8, 5))])
def test_the_crop_is_centred_on_its_box(side, place):
    rows, columns = np.mgrid[:240, :320]
    centre_x, centre_y = place[0] + side / 2 - 0.5, place[1] + side / 2 - 0.5
    blob = np.exp(-((columns - centre_x) ** 2 + (rows - centre_y) ** 2) / (2 * (side / 8) ** 2))
    cut = crop_mouth((250 * blob).astype(np.uint8), np.float32([*place, side, side])).astype(float)
    assert cut.shape == (96, 96)
    weight = cut / cut.sum()
    middle = (weight.sum(0) @ np.arange(96), weight.sum(1) @ np.arange(96))
    np.testing.assert_allclose(middle, 47.5, atol=0.15)


def test_a_whole_picture_of_the_size_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (96, 96), np.uint8)
    np.testing.assert_array_equal(crop_mouth(image, np.float32([0, 0, 96, 96])), image)


def test_outside_of_the_picture_the_border_is_repeated():
    cut = crop_mouth(np.full((50, 50), 77, np.uint8), np.float32([-40, 30, 48, 48]))
    assert (cut == 77).all()


# --- the ways to crop ----------------------------------------------------------------------------


def test_without_a_face_the_box_is_central_and_the_clip_says_so(tmp_path):
    path = movie(0.4, size=(320, 200), sound=False).write(tmp_path / "wall.mp4")
    clip = read_clip(path)
    assert clip.crop.method == "fixed box"
    assert clip.crop.detected == 0.0
    np.testing.assert_array_equal(clip.crop.boxes, [[110, 50, 100, 100]] * 10)
    assert any("No face was found" in note and "100 × 100" in note for note in clip.notes)
    asked = read_clip(path, crop="fixed")
    np.testing.assert_array_equal(asked.frames, clip.frames)
    assert not any("No face" in note for note in asked.notes)
    with pytest.raises(InputError, match=r"wall\.mp4: the detector sees a face in 0%"):
        read_clip(path, crop="face")


def test_boxes_of_ones_own_are_used(tmp_path):
    corner = [np.full((120, 160), 20, np.uint8) for _ in range(8)]
    for index, image in enumerate(corner):
        image[10:50, 4 * index : 4 * index + 40] = 200
    path = lossless(corner, tmp_path / "corner.mkv")
    boxes = np.array([[4 * index, 10, 40, 40] for index in range(8)])
    clip = read_clip(path, crop=boxes)
    assert (clip.frames == 200).all()
    np.testing.assert_array_equal(clip.crop.boxes, boxes)
    assert not (read_clip(path, crop=boxes[0]).frames[-1] == 200).all()
    with pytest.raises(InputError, match="7 boxes are given for 8 frames"):
        read_clip(path, crop=boxes[:-1])
    with pytest.raises(InputError, match="9 boxes are given for 8 frames"):
        read_clip(path, crop=np.concatenate([boxes, boxes[:1]]))
    with pytest.raises(InputError, match=r"boxes of shape \(3,\)"):
        read_clip(path, crop=[1, 2, 3])
    with pytest.raises(InputError, match="crop='nose' is unknown; choose one of auto, face"):
        read_clip(path, crop="nose")


def test_a_mouth_crop_is_taken_as_it_is(tmp_path):
    frames = read_clip(shared("data/grid/lbax4n.mpg")).frames
    clip = read_clip(lossless(list(frames), tmp_path / "mouth.mkv"))
    assert clip.crop.method == "already a mouth crop"
    np.testing.assert_array_equal(clip.frames, frames)


def test_a_steady_picture_without_texture_is_no_face():
    assert len(find_faces(clock_pictures([0.5], size=(320, 240))[0])) == 0


# --- real faces ----------------------------------------------------------------------------------


def test_following_finds_what_searching_every_frame_finds():
    frames = grid_frames("brbk7n")[:40]
    every = follow_face([find_faces(frame) for frame in frames])
    followed = follow_face(find_faces_over_time(frames))
    assert not np.isnan(followed).any()
    centres = [boxes[:, :2] + boxes[:, 2:] / 2 for boxes in (every, followed)]
    assert np.abs(centres[0] - centres[1]).max() < 7
    assert np.abs(mouth_boxes(every)[0] - mouth_boxes(followed)[0]).max() < 5


def test_of_two_speakers_the_larger_is_followed_throughout(tmp_path):
    large, small = grid_frames("lrwp9a")[:30], grid_frames("bbaf2n")[:30]
    both = [
        np.concatenate([np.pad(b[::2, ::2], ((144, 0), (0, 0)), mode="edge"), a], axis=1)
        for a, b in zip(large, small, strict=True)
    ]
    assert any(len(find_faces(image)) == 2 for image in both), "only one face can be seen"
    clip = read_clip(lossless(both, tmp_path / "two.mkv"))
    assert clip.crop.detected >= 0.95
    assert (clip.crop.boxes[:, 0] > 180 + 100).all()
    alone = read_clip(lossless(large, tmp_path / "one.mkv"))
    np.testing.assert_allclose(clip.crop.boxes[:, 0] - 180, alone.crop.boxes[:, 0], atol=6)


def test_frames_without_a_face_are_bridged_and_counted(tmp_path):
    frames = grid_frames("pwij3p")[:40]
    hidden = [np.full_like(f, 90) if 15 <= i < 21 else f for i, f in enumerate(frames)]
    clip = read_clip(lossless(hidden, tmp_path / "hidden.mkv"))
    assert clip.crop.method == "face detector"
    assert clip.crop.detected == pytest.approx(34 / 40)
    assert np.abs(np.diff(clip.crop.boxes, axis=0)).max() <= 4
    assert any("saw the face in 85% of the frames" in note for note in clip.notes)


def test_a_cut_to_another_shot_is_noted_and_both_mouths_are_kept(tmp_path):
    wide = [np.pad(f[::2, ::2], ((72, 72), (0, 180)), mode="edge") for f in grid_frames("lbax4n")]
    close = grid_frames("lrwp9a")
    clip = read_clip(lossless(wide[:30] + close[:30], tmp_path / "cut.mkv"))
    assert any("The face jumps at 1.20 s" in note for note in clip.notes)
    assert clip.crop.boxes[29, 2] < 0.65 * clip.crop.boxes[30, 2]
    alone = read_clip(lossless(close[:30], tmp_path / "close.mkv"))
    np.testing.assert_allclose(clip.crop.boxes[30:], alone.crop.boxes, atol=8)
