"""Any media file becomes a clip: the right sound, the right picture at the right time."""

import json
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import soundfile

import sinkscope.assets
from sinkscope.avsr.clip import FRAME_RATE, SAMPLE_RATE, Phoneme
from sinkscope.avsr.descriptors import silence
from sinkscope.avsr.media import read_clip
from sinkscope.errors import InputError
from tests.media_files import Movie, chirp, clock_pictures, correlation, movie, seconds_shown
from tests.shared_data import shared

ASSETS = Path(sinkscope.assets.__file__).parent / "clips"
GRID = ["bbaf2n", "brbk7n", "lbax4n", "lrwp9a", "pwij3p"]


# --- sound ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [
        ("8k.wav", 8_000, 1),
        ("44k.wav", 44_100, 2),
        ("48k.flac", 48_000, 1),
        ("surround.wav", 48_000, 6),
        ("music.ogg", 44_100, 2),
        ("music.mp3", 44_100, 1),
    ],
)
def test_sound_of_any_rate_and_channel_count_is_the_same_sound(tmp_path, name, rate, channels):
    tone = chirp(2.0, rate)
    soundfile.write(tmp_path / name, np.repeat(tone[:, None], channels, axis=1), rate)
    clip = read_clip(tmp_path / name)
    assert clip.waveform.dtype == np.float32
    assert clip.waveform.ndim == 1
    assert clip.frames is None
    assert clip.crop is None
    assert abs(len(clip.waveform) / SAMPLE_RATE - 2.0) < (0.06 if name.endswith("mp3") else 0.002)
    assert correlation(clip.waveform[:31_000]) > 0.99
    level = np.sqrt(np.mean(clip.waveform[2000:30_000] ** 2))
    assert level == pytest.approx(0.4 / np.sqrt(2), rel=0.02), "the level depends on the channels"


def test_one_millisecond_of_shift_would_be_seen():
    shifted = chirp(1.9, SAMPLE_RATE, start=0.001)
    assert correlation(shifted) < 0.6


@pytest.mark.parametrize("sample_format", ["s16", "flt"])
def test_stereo_is_the_mean_of_its_channels_in_every_sample_format(tmp_path, sample_format):
    subtype = {"s16": "PCM_16", "flt": "FLOAT"}[sample_format]
    left = chirp(1.0, 16_000)
    both = np.stack([left, np.zeros_like(left)], axis=1)
    soundfile.write(tmp_path / "stereo.wav", both, 16_000, subtype=subtype)
    np.testing.assert_allclose(
        read_clip(tmp_path / "stereo.wav").waveform, left / 2, atol=1e-4, rtol=0
    )


def test_the_low_frequency_channel_of_surround_sound_is_left_out(tmp_path):
    five_one = np.zeros((6, 48_000))
    five_one[2], five_one[3] = chirp(1.0, 48_000), 1.0  # centre, low
    surround = Movie(sound=five_one, layout="5.1", audio_codec="flac", sample_format="s16").write(
        tmp_path / "surround.flac"
    )
    with av.open(str(surround)) as container:
        names = [channel.name for channel in container.streams.audio[0].layout.channels]
    assert names[3] == "LFE", "the file does not say which channel is the low one"
    waveform = read_clip(surround).waveform
    np.testing.assert_allclose(waveform, chirp(1.0, 16_000) / 5, atol=2e-3, rtol=0)


def test_samples_that_are_not_numbers_are_refused(tmp_path):
    tone = chirp(0.5, 16_000)
    tone[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", tone, 16_000, subtype="FLOAT")
    with pytest.raises(InputError, match=r"nan\.wav has samples that are not finite"):
        read_clip(tmp_path / "nan.wav")


# --- picture -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [15, 24, 25, Fraction(30_000, 1001), 30, 50, 60])
def test_every_frame_is_the_picture_shown_at_its_middle(tmp_path, fps):
    path = movie(2.0, fps=fps, sound=False).write(tmp_path / "clock.mp4")
    clip = read_clip(path, crop="none")
    assert clip.waveform is None
    assert abs(len(clip.frames) - 50) <= 1
    middle = (np.arange(len(clip.frames)) + 0.5) / FRAME_RATE
    expected = np.floor((middle + 1e-3) * float(fps)) / float(
        fps
    )  # begin of the picture shown then
    np.testing.assert_allclose(seconds_shown(clip.frames), expected, atol=0.015)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.mpg", "mpeg1video", "yuv420p"),
        ("a.mkv", "ffv1", "gray"),
        ("a.mov", "mjpeg", "yuvj420p"),
        ("a.webm", "libvpx", "yuv420p"),
    ],
)
def test_every_container_gives_the_same_pictures(tmp_path, name, codec, pix_fmt):
    path = movie(0.6, sound=False, video_codec=codec, pix_fmt=pix_fmt).write(tmp_path / name)
    clip = read_clip(path, crop="none")
    assert len(clip.frames) == 15
    np.testing.assert_allclose(seconds_shown(clip.frames), np.arange(15) / 25, atol=0.015)


def test_a_variable_frame_rate_is_read_by_its_time_stamps(tmp_path):
    times = [0.0, 0.04, 0.3, 0.34, 1.0, 1.2, 1.22]
    pictures = clock_pictures(times)
    path = Movie(pictures=pictures, times=times).write(tmp_path / "phone.mp4")
    shown = seconds_shown(read_clip(path, crop="none").frames)
    middle = (np.arange(len(shown)) + 0.5) / FRAME_RATE
    expected = [max(t for t in times if t <= m + 1e-3) for m in middle]
    np.testing.assert_allclose(shown, expected, atol=0.015)
    assert len(shown) >= 31


def test_a_phone_held_upright_gives_an_upright_picture(tmp_path):
    ramp = np.tile(np.linspace(40, 220, 64, dtype=np.uint8), (64, 1))  # brighter to the right
    times = [i / 25 for i in range(5)]
    base = Movie(pictures=[ramp] * 5, times=times, pix_fmt="yuv420p")
    plain = read_clip(base.write(tmp_path / "plain.mp4"), crop="none").frames[0].astype(int)
    base.rotation = 90
    turned = read_clip(base.write(tmp_path / "turned.mp4"), crop="none").frames[0].astype(int)
    assert plain[48, 90] - plain[48, 5] > 120
    assert abs(turned[48, 90] - turned[48, 5]) < 12
    with av.open(str(tmp_path / "turned.mp4")) as container:
        degrees = next(container.decode(video=0)).rotation
    assert degrees in (90, -90)
    np.testing.assert_allclose(turned, np.rot90(plain, degrees // 90), atol=8)


def test_pixels_that_are_not_square_are_put_right(tmp_path):
    disc = np.zeros((120, 120), np.uint8)
    cv2.ellipse(
        disc, (60, 60), (20, 40), 0, 0, 360, 255, -1
    )  # a circle, squeezed to half its width
    stretched = Movie(pictures=[disc] * 3, times=[0, 0.04, 0.08], pixel_aspect=2)
    frame = read_clip(stretched.write(tmp_path / "wide.mp4"), crop="none").frames[0]
    rows, columns = np.nonzero(frame > 128)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=3)


@pytest.mark.parametrize("size", [(17, 13), (96, 96), (33, 201), (640, 360)])
def test_odd_sizes_are_read(tmp_path, size):
    path = movie(0.4, size=size, sound=False, video_codec="ffv1", pix_fmt="gray").write(
        tmp_path / "odd.mkv"
    )
    frames = read_clip(path).frames
    assert frames.shape == (10, 96, 96)
    assert frames.dtype == np.uint8
    np.testing.assert_allclose(seconds_shown(frames), np.arange(10) / 25, atol=0.01)


# --- sound and picture together ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("a.mp4", {}),
        ("a.mkv", {"audio_codec": "flac", "sample_format": "s16"}),
        ("a.mov", {"audio_codec": "pcm_s16le", "sample_format": "s16", "rate": 44_100}),
        ("a.avi", {"audio_codec": "pcm_s16le", "sample_format": "s16", "video_codec": "mpeg4"}),
        ("a.webm", {"audio_codec": "libopus", "sample_format": "flt", "video_codec": "libvpx"}),
    ],
)
def test_sound_and_picture_share_a_clock(tmp_path, name, changes):
    clip = read_clip(movie(2.0, **changes).write(tmp_path / name), crop="none")
    assert abs(clip.duration - 2.0) < 0.1
    np.testing.assert_allclose(seconds_shown(clip.frames)[:48], np.arange(48) / 25, atol=0.015)
    assert correlation(clip.waveform[1600:30_400], start=0.1) > 0.97


def test_a_sound_that_begins_later_is_delayed_by_silence(tmp_path):
    late = movie(2.0, sound_start=0.5, audio_codec="flac", sample_format="s16")
    clip = read_clip(late.write(tmp_path / "late.mkv"), crop="none")
    assert np.abs(clip.waveform[: int(0.49 * SAMPLE_RATE)]).max() < 1e-3
    assert correlation(clip.waveform[8000:36_000]) > 0.99
    assert len(clip.frames) == 50


def test_a_picture_that_begins_later_shows_its_first_frame_until_then(tmp_path):
    times = [0.4 + i / 25 for i in range(25)]
    late = Movie(
        pictures=clock_pictures(times),
        times=times,
        sound=chirp(1.4, 48_000),
        audio_codec="flac",
        sample_format="s16",
    )
    clip = read_clip(late.write(tmp_path / "late.mkv"), crop="none")
    shown = seconds_shown(clip.frames)
    np.testing.assert_allclose(shown[:10], 0.4, atol=0.015)
    np.testing.assert_allclose(shown[10:], np.array(times), atol=0.015)


def test_unequal_lengths_are_kept_and_said(tmp_path):
    short = movie(2.0, sound=False)
    short.sound = chirp(1.0, 48_000)
    clip = read_clip(short.write(tmp_path / "short.mp4"), crop="none")
    assert len(clip.frames) == 50
    assert abs(len(clip.waveform) / SAMPLE_RATE - 1.0) < 0.05
    assert any("sound lasts 1.0" in note and "picture 2.00 s" in note for note in clip.notes)
    equal = read_clip(movie(2.0).write(tmp_path / "equal.mp4"), crop="none")
    assert not equal.notes


def test_a_pair_takes_sound_from_one_file_and_picture_from_the_other(tmp_path):
    soundfile.write(tmp_path / "mic.wav", chirp(2.0, 44_100), 44_100)
    camera = movie(2.0).write(tmp_path / "camera.mp4")
    (tmp_path / "camera.json").write_text('{"text": "hello", "phonemes": [["h", 0, 0.1]]}')
    clip = read_clip((tmp_path / "mic.wav", camera), crop="none")
    assert len(clip.waveform) == 32_000
    assert correlation(clip.waveform) > 0.999
    assert len(clip.frames) == 50
    assert clip.text == "hello"
    with pytest.raises(InputError, match=r"mic\.wav has no picture .* pair"):
        read_clip((camera, tmp_path / "mic.wav"))
    with pytest.raises(InputError, match="3 paths"):
        read_clip((camera, camera, camera))


def test_cover_art_is_no_picture(tmp_path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        audio = container.add_stream("aac", rate=44_100)
        art = container.add_stream("mjpeg", rate=1)
        art.width = art.height = 64
        art.pix_fmt = "yuvj420p"
        art.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(np.full((64, 64), 99, np.uint8), format="gray")
        container.mux(art.encode(frame.reformat(format="yuvj420p")))
        container.mux(art.encode(None))
        tone = av.AudioFrame.from_ndarray(
            chirp(1.0, 44_100)[None].astype(np.float32), format="fltp", layout="mono"
        )
        tone.sample_rate = 44_100
        container.mux(audio.encode(tone))
        container.mux(audio.encode(None))
    with av.open(str(path)) as container:
        assert container.streams.video, "the file has no cover art to ignore"
    clip = read_clip(path)
    assert clip.frames is None
    assert len(clip.waveform) > 15_000


# --- text ----------------------------------------------------------------------------------------


def test_the_text_comes_from_the_argument_or_the_synthetic_corpus_only(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, chirp(0.5, 16_000), 16_000)
    beside = tmp_path / "a.json"
    assert read_clip(path).text is None
    beside.write_text(json.dumps({"text": "by a recogniser", "segments": []}))
    assert read_clip(path).text is None, "another program's JSON was taken for ours"
    beside.write_text(json.dumps({"text": "bin blue", "phonemes": [["b", 0.0, 0.1]]}))
    clip = read_clip(path)
    assert clip.text == "bin blue"
    assert clip.phonemes == (Phoneme("b", 0.0, 0.1),)
    assert read_clip(path, text="said").text == "said"
    beside.write_text(json.dumps({"text": "bin blue", "phonemes": [["b", 0.0]]}))
    with pytest.raises(InputError, match=r"a\.json: 'phonemes' must be rows"):
        read_clip(path)


# --- the GRID clips ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRID)
def test_grid_clips_give_steady_mouths_from_the_detector(name):
    clip = read_clip(shared(f"data/grid/{name}.mpg"))
    assert clip.frames.shape == (75, 96, 96)
    assert clip.crop.method == "face detector"
    assert clip.crop.detected >= 0.95
    boxes = clip.crop.boxes
    assert boxes.shape == (75, 4)
    assert np.abs(np.diff(boxes, axis=0)).max() <= 4
    assert len(np.unique(boxes[:, 2:])) == 1, "the scale changes within the clip"
    assert abs(len(clip.waveform) / SAMPLE_RATE - 2.978) < 0.005
    assert not clip.notes


@pytest.mark.parametrize("name", GRID)
def test_the_middle_of_a_grid_crop_is_what_moves(name):
    """The lips: their rows change more from frame to frame than the nose above and the rim."""
    frames = read_clip(shared(f"data/grid/{name}.mpg")).frames.astype(float)
    change = np.abs(np.diff(frames, axis=0)).mean(axis=0)
    lips = change[40:72, 28:68].mean()
    assert lips > 1.5 * change[:20, 28:68].mean()
    assert lips > 1.5 * change[:, :10].mean()


# --- the bundled clips ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["synthetic-1", "synthetic-2", "synthetic-3"])
def test_a_bundled_clip_keeps_its_text_its_crop_and_its_timeline(name):
    clip = read_clip(ASSETS / f"{name}.mp4")
    assert clip.frames.shape[1:] == (96, 96)
    assert clip.crop.method == "already a mouth crop"
    assert clip.notes == ()
    assert len(clip.text.split()) % 6 == 0
    start = np.arange(0, clip.duration - 0.02, 0.02)
    quiet = silence(clip, np.stack([start, start + 0.02], axis=1))
    before = start + 0.02 <= clip.phonemes[0].start
    assert quiet[before].mean() > 0.8, "the phonemes and the sound do not share a clock"
    assert not quiet[np.flatnonzero(before)[-1] + 1 :][:10].all()
