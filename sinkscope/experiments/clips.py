"""Make the bundled clips: ``python -m sinkscope.experiments.clips OUT``.

Utterances of the synthetic corpus by voices that no model heard in training, beyond those that
it is tested on, as media files: H.264 and AAC in mp4, with the text and the phoneme timeline in a
JSON file beside it, as ``read_clip`` reads it.

Needs espeak-ng's library, as the corpus does.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import av
import numpy as np

from sinkscope.avsr.clip import FRAME_RATE, SAMPLE_RATE, Clip
from sinkscope.avsr.espeak import Speaker
from sinkscope.avsr.synthetic import make_clip
from sinkscope.errors import InputError

__all__ = ["make_clips", "write_media"]

FIRST = 10_000
"""The first clip that is tried: far beyond the test set."""

SHORTEST, LONGEST = 3.0, 5.0

_PICTURE_OPTIONS = {"crf": "20", "preset": "slow"}
_SOUND_BITS = 48_000
_SAMPLES = 1024  # of an AAC frame


def make_clips(folder: Path, *, number: int = 3, seed: int = 0) -> list[Path]:
    """Make clips of 3 to 5 s by test voices, ``synthetic-1.mp4`` and so on, with their JSON files.

    Args:
        folder: is made where missing; files of the same names are written over.
        number: of clips.
        seed: of the corpus.

    Returns:
        The media files.

    Raises:
        InputError: espeak-ng is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"synthetic-{place}.mp4" for place in range(1, number + 1)]
    with Speaker() as speaker:
        for path, clip in zip(paths, _short_clips(speaker, seed), strict=False):
            write_media(clip, path)
    return paths


def write_media(clip: Clip, path: Path) -> None:
    """Write a clip that has sound and picture as mp4, and what is said beside it as JSON.

    Args:
        clip: what to write.
        path: of the media file; the other has the ending ``.json``.

    Raises:
        InputError: the clip lacks sound or picture.
    """
    if clip.waveform is None or clip.frames is None:
        raise InputError(f"{clip.name} lacks sound or picture; write_media needs both.")
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=FRAME_RATE, options=_PICTURE_OPTIONS)
        picture.height, picture.width = clip.frames.shape[1:]
        picture.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        sound.bit_rate = _SOUND_BITS
        for frame in _pictures(clip.frames):
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        for piece in _sounds(clip.waveform):
            container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
    timeline = [[p.label, round(p.start, 4), round(p.end, 4)] for p in clip.phonemes]
    said = json.dumps({"text": clip.text, "phonemes": timeline}, ensure_ascii=False)
    path.with_suffix(".json").write_text(said + "\n", encoding="utf-8")


def _short_clips(speaker: Speaker, seed: int) -> Iterator[Clip]:
    for index in count(FIRST):
        clip = make_clip(speaker, seed=seed, split="test", index=index)
        if SHORTEST <= clip.duration <= LONGEST:
            yield clip


def _pictures(frames: np.ndarray) -> Iterator[av.VideoFrame]:
    """Frames as the encoder takes them: luma from 16 to 235 above colourless chroma."""
    luma = np.round(16 + frames * (219 / 255)).astype(np.uint8)
    chroma = np.full((frames.shape[1] // 2, frames.shape[2]), 128, np.uint8)
    for number, grey in enumerate(luma):
        frame = av.VideoFrame.from_ndarray(np.concatenate([grey, chroma]), format="yuv420p")
        frame.pts = number
        yield frame


def _sounds(waveform: np.ndarray) -> Iterator[av.AudioFrame]:
    for start in range(0, len(waveform), _SAMPLES):
        piece = np.ascontiguousarray(waveform[None, start : start + _SAMPLES])
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, start
        yield frame


def main() -> None:
    """Parse the command line and make the clips."""
    parser = argparse.ArgumentParser(description="Make the bundled clips.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--number", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for path in make_clips(given.folder, number=given.number, seed=given.seed):
        print(path)


if __name__ == "__main__":
    main()
