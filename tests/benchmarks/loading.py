"""What reading a corpus costs: clips a second and memory, by worker processes and corpus size.

Run ``python -m tests.benchmarks.loading``; ``--help`` lists the choices. The clips are made on the
fly: pictures and sound of one to two seconds, in MPEG-4. Each line is a process of its own; memory
is its peak above that before the first clip, and the sum of the workers' largest. What others do on
the machine slows single lines: the fastest of a few runs is printed, and the clips for each second
of the processor, all processes and their start included.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from sinkscope.avsr.batching import bucket, frames_of
from sinkscope.avsr.loading import load_clip, load_clips
from sinkscope.avsr.manifest import Entry, Failure
from tests.media_files import Movie, chirp

MIB = 2**20
KINDS = 16
"""Different clips, of which the corpus's files are copies."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=int, nargs="*", default=[200, 2000])
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--side", type=int, default=160, help="pixels of a picture's side")
    parser.add_argument("--crop", default="none", help="auto looks for a face in every frame")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        folder, workers, crop = chosen.child
        print(json.dumps(_measure(Path(folder), int(workers), crop)))
        return
    print(
        f"clips of {chosen.side} x {chosen.side} pixels, 1 to 2 s, with sound; crop={chosen.crop!r}"
    )
    print(
        "  clips  workers  clips/s  clips/processor s  peak MiB here  peak MiB of the workers  "
        "headers/s  padding"
    )
    with tempfile.TemporaryDirectory() as folder:
        for clips in chosen.clips:
            corpus = _make(Path(folder) / str(clips), clips, chosen.side)
            for workers in chosen.workers:
                runs = [_in_child(corpus, workers, chosen.crop) for _ in range(chosen.runs)]
                best = max(runs, key=lambda run: run["rate"])
                memory = [max(run[name] for run in runs) for name in ("here", "there")]
                print(
                    f"  {clips:5d}  {workers:7d}  {best['rate']:7.1f}  "
                    f"{best['work']:17.1f}  {memory[0]:13.0f}  "
                    f"{memory[1]:23.0f}  {best['headers']:9.0f}  {best['padding']:7.1%}",
                    flush=True,
                )


def _make(folder: Path, clips: int, side: int) -> Path:
    """A folder of clips whose lengths differ."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    contents = []
    for kind in range(KINDS):
        seconds = 1.0 + kind / KINDS
        times = [index / 25 for index in range(round(25 * seconds))]
        blobs = rng.integers(0, 255, (8, 8)).astype(np.uint8)
        pictures = [
            np.roll(np.kron(blobs, np.ones((side // 8, side // 8), np.uint8)), index, 1)
            for index in range(len(times))
        ]
        movie = Movie(pictures=pictures, times=times, sound=chirp(seconds, 16_000), rate=16_000)
        contents.append(movie.write(folder / "kind.mp4").read_bytes())
    (folder / "kind.mp4").unlink()
    for number in range(clips):
        (folder / f"{number:05d}.mp4").write_bytes(contents[rng.integers(KINDS)])
    return folder


def _in_child(corpus: Path, workers: int, crop: str) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.loading",
        "--child",
        str(corpus),
        str(workers),
        crop,
    ]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout)


def _measure(corpus: Path, workers: int, crop: str) -> dict[str, float]:
    """Read a corpus once, and keep nothing of it."""
    entries = [Entry(path) for path in sorted(corpus.iterdir())]
    start = time.perf_counter()
    lengths = [frames_of(entry) for entry in entries]
    headers = time.perf_counter() - start
    batches = bucket(lengths)
    held = sum(len(batch) * max(lengths[number] for number in batch) for batch in batches)
    read = partial(load_clip, crop=crop)
    here, there = psutil.Process().memory_info().rss, 0
    start, begun, peak = time.perf_counter(), _processor_seconds(), here
    for number, found in enumerate(load_clips(entries, workers=workers, read=read)):
        assert not isinstance(found, Failure), found.reason
        if number % 20 == 0:
            peak = max(peak, psutil.Process().memory_info().rss)
            there = max(there, _of_workers())
    taken = time.perf_counter() - start
    return {
        "rate": len(entries) / taken,
        "work": len(entries) / (_processor_seconds() - begun),
        "here": (peak - here) / MIB,
        "there": there / MIB,
        "headers": len(entries) / headers,
        "padding": held / sum(lengths) - 1,
    }


def _processor_seconds() -> float:
    """Of this process, and of the workers that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def _of_workers() -> int:
    """Bytes that the worker processes hold now."""
    held = 0
    for child in psutil.Process().children():
        try:
            held += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return held


if __name__ == "__main__":
    main()
