"""Where are the sinks of a model, and what is said there?

    python examples/sinks_of_a_clip.py [CHECKPOINT [CLIP]]

Without arguments: the bundled model on a bundled clip. Writes ``sinks_of_a_clip.png``.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

import sinkscope as ss


def main(checkpoint: str = "tiny-avsr", path: str | None = None) -> None:
    subject = ss.load(checkpoint)
    clip = ss.read_clip(path or ss.bundled_clips()[0])
    record = ss.record(subject, clip, keep=["pattern"])

    sinks = ss.find_sinks(record)
    columns = ["layer", "token", "label", "segment", "start", "alpha", "sink_rate", "massive"]
    print(sinks[columns].to_string(index=False) if len(sinks) else "no sink found")

    strongest = int(sinks.loc[sinks["alpha"].idxmax(), "layer"]) if len(sinks) else 0
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    ss.plots.attention_map(record, layer=strongest, ax=left)
    ss.plots.bos_cosine(record, ax=right)
    figure.savefig("sinks_of_a_clip.png", dpi=120)
    print(f"wrote {Path('sinks_of_a_clip.png').resolve()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
