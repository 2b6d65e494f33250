"""What is damaged, missing or no media at all is survived and said, or refused in one sentence."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import soundfile

from sinkscope.avsr.clip import SAMPLE_RATE
from sinkscope.avsr.media import read_clip
from sinkscope.errors import InputError
from tests.media_files import chirp, correlation, movie


def test_a_file_cut_short_gives_what_decodes_and_says_so(tmp_path):
    whole = movie(2.0, options={"movflags": "faststart"})
    noise = np.random.default_rng(0)
    whole.pictures = [noise.integers(0, 255, (96, 96), np.uint8) for _ in whole.pictures]
    content = whole.write(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    clip = read_clip(tmp_path / "cut.mp4", crop="none")
    assert 10 < len(clip.frames) < 40
    assert any("cut short" in note and "2.00 s" in note for note in clip.notes)


@pytest.mark.parametrize("name", ["sound.wav", "sound.flac"])
def test_a_sound_cut_short_says_so(tmp_path, name):
    whole = tmp_path / name
    soundfile.write(whole, chirp(3.0, 16_000), 16_000)
    assert not any("cut short" in note for note in read_clip(whole).notes)
    content = whole.read_bytes()
    cut = tmp_path / f"cut.{name}"
    cut.write_bytes(content[: len(content) // 2])
    clip = read_clip(cut)
    assert 0.5 < len(clip.waveform) / SAMPLE_RATE < 2.5
    assert any(f"{cut.name} is cut short" in note for note in clip.notes)


def test_a_wav_written_to_a_pipe_is_not_called_cut_short(tmp_path):
    path = tmp_path / "pipe.wav"
    soundfile.write(path, chirp(1.0, 16_000), 16_000)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(content))
    clip = read_clip(path)
    assert len(clip.waveform) == 16_000
    assert clip.notes == ("pipe.wav has no picture.",)


@pytest.mark.parametrize("rate", [100, 1_700_000_000])
def test_an_absurd_sampling_rate_is_refused(tmp_path, rate):
    path = tmp_path / "rate.wav"
    soundfile.write(path, chirp(1.0, 16_000), 16_000)
    content = bytearray(path.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=f"rate.wav claims {rate} samples of sound a second"):
        read_clip(path)


def test_streams_that_begin_an_hour_apart_are_refused(tmp_path):
    apart = movie(0.4, sound_start=3600.0, audio_codec="flac", sample_format="s16")
    with pytest.raises(InputError, match="begin 3600 s apart"):
        read_clip(apart.write(tmp_path / "apart.mkv"))


def test_holes_in_the_time_stamps_of_the_sound_become_silence(tmp_path):
    path = tmp_path / "hole.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=44_100)
        stream.layout = "mono"
        for begin in (0.0, 1.5):
            samples = (chirp(0.5, 44_100, start=begin) * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.time_base = 44_100, Fraction(1, 44_100)
            frame.pts = round(begin * 44_100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    waveform = read_clip(path).waveform
    assert abs(len(waveform) - 32_000) <= 3
    assert not waveform[8_100:23_900].any()
    assert waveform[7_985:7_999].all(), "the end of what comes before the hole is lost"
    assert correlation(waveform[:8_000]) > 0.999
    assert correlation(waveform[24_000:], start=1.5) > 0.999


def test_titles_in_another_alphabet_do_not_matter(tmp_path):
    tagged = movie(0.4, video_codec="mpeg4", audio_codec="pcm_s16le", sample_format="s16")
    content = tagged.write(tmp_path / "tagged.avi").read_bytes()
    assert b"ISFT" in content, "the file has no tag to damage"
    (tmp_path / "tagged.avi").write_bytes(
        content.replace(b"ISFT\x0e\0\0\0Lavf", b"ISFT\x0e\0\0\0\xe9\xff\xe9\xff")
    )
    assert b"\xe9\xff\xe9\xff" in (tmp_path / "tagged.avi").read_bytes()
    assert len(read_clip(tmp_path / "tagged.avi").frames) == 10


def test_a_file_that_lost_its_index_is_refused(tmp_path):
    content = movie(1.0).write(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])  # the index is at the end
    with pytest.raises(InputError, match=r"cut\.mp4 is not a media file or is damaged"):
        read_clip(tmp_path / "cut.mp4")


def test_bytes_damaged_in_the_middle_are_survived_and_said(tmp_path):
    clean = movie(2.0, video_codec="mpeg2video", audio_codec="mp2", sample_format="s16")
    content = bytearray(clean.write(tmp_path / "clean.mpg").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = np.random.default_rng(1).bytes(3000)
    (tmp_path / "damaged.mpg").write_bytes(bytes(content))
    clip = read_clip(tmp_path / "damaged.mpg", crop="none")
    assert len(clip.frames) > 20
    assert any("damaged.mpg is damaged" in note for note in clip.notes)


def test_pictures_that_are_decoded_with_errors_are_counted(tmp_path):
    rng = np.random.default_rng(0)
    whole = movie(2.0, sound=False)
    whole.pictures = [rng.integers(0, 255, (96, 96), np.uint8) for _ in whole.pictures]
    content = bytearray(whole.write(tmp_path / "whole.mp4").read_bytes())
    for place in np.linspace(content.index(b"mdat") + 2_000, 0.8 * len(content), 6).astype(int):
        content[place : place + 200] = rng.bytes(200)
    (tmp_path / "scratched.mp4").write_bytes(bytes(content))
    clip = read_clip(tmp_path / "scratched.mp4")
    assert len(clip.frames) > 40
    assert any("scratched.mp4 is damaged" in note for note in clip.notes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.mp4", b"", "is empty"),
        ("garbage.mp4", b"garbage" * 300, "is not a media file"),
        ("notes.txt", b"bin blue at f two now\n" * 20, "is a text file"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\nhttp://example.org/a.ts\n", "is not a media file"),
        ("said.srt", b"1\n00:00:00,000 --> 00:00:02,000\nhello\n", "neither sound nor picture"),
    ],
)
def test_what_is_no_media_file_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_clip(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_paths_folders_photographs_and_empty_sounds_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.mp4 does not exist"):
        read_clip(tmp_path / "nothing.mp4")
    with pytest.raises(InputError, match="is not a file"):
        read_clip(tmp_path)
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((50, 50), np.uint8))
    with pytest.raises(InputError, match=r"photo\.png is a still picture"):
        read_clip(tmp_path / "photo.png")
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 16_000)
    with pytest.raises(InputError, match=r"nothing\.wav"):
        read_clip(tmp_path / "nothing.wav")
