"""The bundled pair, before and after: ``python examples/before_and_after.py [OUT]``."""

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import sinkscope as ss


def main(out: str = "before_and_after.png") -> None:
    clips = [ss.read_clip(path) for path in ss.bundled_clips()]
    records, heard = [], []
    for name in ("tiny-avsr", "tiny-avsr-decorrelated"):
        subject = ss.load(name)
        records.append(ss.record(subject, clips, keep=["pattern"]))
        heard.append(subject.transcribe(clips))
    errors = ss.transcript_errors([clip.text for clip in clips], *heard)
    found = ss.compare(*records, wer=errors)
    print(ss.describe(found))
    ss.plots.before_after(*records, found).figure.savefig(out, dpi=110)
    print(f"wrote {Path(out).resolve()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
