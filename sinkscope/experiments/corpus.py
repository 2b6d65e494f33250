"""Make the synthetic corpus: ``python -m sinkscope.experiments.corpus OUT``.

Writes shards ``OUT/{train,dev,test}-NNNN.npz`` of up to 100 clips: 16-bit sound, 32 x 32 frames
(the resolution of the tiny video encoder), texts and phoneme timelines. A shard that is there is
not made again, so the command can be stopped and repeated. 6,600 clips take about 1.9 GB.
"""

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sinkscope.avsr.clip import Clip, Phoneme
from sinkscope.avsr.espeak import Speaker
from sinkscope.avsr.synthetic import Split, make_clip

__all__ = ["Shard", "make_corpus", "read_corpus"]

SHARD = 100
SMALL = 32
"""Height and width of stored frames, pixels."""


@dataclass(frozen=True)
class Shard:
    """A part of a split: clips ``start`` to ``stop`` of the corpus with this seed."""

    folder: Path
    split: Split
    seed: int
    start: int
    stop: int

    @property
    def path(self) -> Path:
        """The shard's file."""
        return self.folder / f"{self.split}-{self.start // SHARD:04d}.npz"


def make_corpus(folder: Path, sizes: dict[Split, int], *, seed: int = 0, workers: int = 2) -> None:
    """Make every shard that is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [
        Shard(folder, split, seed, start, min(start + SHARD, size))
        for split, size in sizes.items()
        for start in range(0, size, SHARD)
    ]
    missing = [shard for shard in wanted if not shard.path.exists()]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for _ in tqdm(pool.map(_make_shard, missing), total=len(missing), unit="shard"):
            pass


def read_corpus(folder: Path, split: Split, *, limit: int | None = None) -> Iterator[Clip]:
    """The clips of a split, with 32 x 32 frames, in their order."""
    count = 0
    for path in sorted(folder.glob(f"{split}-*.npz")):
        with np.load(path) as shard:
            arrays = dict(shard)
        words = json.loads(str(arrays["words"]))
        sounds = np.split(arrays["sound"], np.cumsum(arrays["samples"])[:-1])
        pictures = np.split(arrays["frames"], np.cumsum(arrays["counts"])[:-1])
        for entry, sound, frames in zip(words, sounds, pictures, strict=True):
            if limit is not None and count >= limit:
                return
            count += 1
            phonemes = tuple(Phoneme(*phoneme) for phoneme in entry["phonemes"])
            waveform = sound.astype(np.float32) / 32767
            yield Clip(waveform, frames, text=entry["text"], phonemes=phonemes)


def shrink(frames: np.ndarray) -> np.ndarray:
    """Frames of 96 x 96 as the mean of each 3 x 3 pixels."""
    import cv2

    return np.stack([cv2.resize(f, (SMALL, SMALL), interpolation=cv2.INTER_AREA) for f in frames])


def _make_shard(shard: Shard) -> None:
    with Speaker() as speaker:
        clips = [
            make_clip(speaker, seed=shard.seed, split=shard.split, index=index)
            for index in range(shard.start, shard.stop)
        ]
    sounds = [clip.waveform for clip in clips if clip.waveform is not None]
    pictures = [shrink(clip.frames) for clip in clips if clip.frames is not None]
    words = [
        {"text": clip.text, "phonemes": [(p.label, p.start, p.end) for p in clip.phonemes]}
        for clip in clips
    ]
    temporary = shard.path.with_suffix(".tmp.npz")
    np.savez(
        temporary,
        sound=np.round(np.concatenate(sounds) * 32767).astype(np.int16),
        samples=np.array([len(sound) for sound in sounds]),
        frames=np.concatenate(pictures),
        counts=np.array([len(picture) for picture in pictures]),
        words=np.array(json.dumps(words)),
    )
    temporary.replace(shard.path)


def main() -> None:
    """Parse the command line and make the corpus."""
    parser = argparse.ArgumentParser(description="Make the synthetic corpus.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=6000)
    parser.add_argument("--dev", type=int, default=300)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    sizes: dict[Split, int] = {"dev": given.dev, "test": given.test, "train": given.train}
    make_corpus(given.folder, sizes, seed=given.seed, workers=given.workers)


if __name__ == "__main__":
    main()
