"""The bundled clips: what is shipped can be read, and what is written comes back on time."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from einops import reduce

from sinkscope.avsr.clip import SAMPLE_RATE, Clip, Phoneme
from sinkscope.avsr.media import read_clip
from sinkscope.avsr.synthetic import GRAMMAR
from sinkscope.errors import InputError
from sinkscope.experiments.clips import write_media

SHIPPED = sorted((Path(str(resources.files("sinkscope"))) / "assets" / "clips").glob("*.mp4"))


def test_three_clips_are_shipped() -> None:
    assert len(SHIPPED) == 3


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_clip_is_whole(path: Path) -> None:
    assert path.stat().st_size <= 250_000
    clip = read_clip(path)
    assert clip.crop.method == "already a mouth crop"
    assert clip.notes == ()
    assert 3 <= len(clip.frames) / 25 <= 5
    assert abs(len(clip.waveform) / SAMPLE_RATE - len(clip.frames) / 25) < 0.1
    words = clip.text.split()
    assert len(words) % 6 == 0
    assert all(word in GRAMMAR[number % 6] for number, word in enumerate(words))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_sound_and_lips_of_a_shipped_clip_begin_together(path: Path) -> None:
    """Loud and moving from the first phoneme on; quiet and still in the silence before it."""
    clip = read_clip(path)
    begin = clip.phonemes[0].start
    assert begin > 0.1
    sample, frame = int(begin * SAMPLE_RATE), int(begin * 25)
    before, after = clip.waveform[:sample], clip.waveform[sample : sample + SAMPLE_RATE]
    assert (after**2).mean() > 1000 * (before[: -SAMPLE_RATE // 50] ** 2).mean()
    assert (after[: SAMPLE_RATE // 10] ** 2).mean() > 10 * (before**2).mean()
    coarse = reduce(clip.frames.astype(float), "f (h a) (w b) -> f h w", "mean", a=6, b=6)
    mouth = (coarse / coarse.mean((1, 2), keepdims=True))[:, 5:11, 3:13]
    change = np.abs(np.diff(mouth, axis=0)).mean((1, 2))
    assert change[frame : frame + 25].max() > 2 * change[: max(frame - 2, 1)].max()


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    seconds = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    sound = (0.3 * np.sin(2 * np.pi * (200 * seconds + 300 * seconds**2))).astype(np.float32)
    frames = np.repeat(np.arange(20, 170, 2, dtype=np.uint8), 96 * 96).reshape(75, 96, 96)
    phonemes = (Phoneme("iː", 0.5, 0.75), Phoneme("s", 0.75, 1.0))
    write_media(Clip(sound, frames, text="see", phonemes=phonemes), tmp_path / "c.mp4")
    clip = read_clip(tmp_path / "c.mp4")
    assert (clip.text, clip.phonemes) == ("see", phonemes)
    assert len(clip.frames) == 75
    assert np.abs(clip.frames.astype(int) - frames).mean() < 1
    middle = slice(SAMPLE_RATE // 2, 5 * SAMPLE_RATE // 2)
    assert np.corrcoef(clip.waveform[middle], sound[middle])[0, 1] > 0.99


def test_half_a_clip_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lacks sound or picture"):
        write_media(Clip(np.zeros(16_000, np.float32), None), tmp_path / "c.mp4")
    assert not list(tmp_path.iterdir())
