"""Make the picture of the README: ``python examples/readme_picture.py [OUT]``."""

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

import sinkscope as ss


def main(out: str = "sinks.png") -> None:
    subject = ss.load("tiny-avsr")
    record = ss.record(subject, ss.read_clip(ss.bundled_clips()[0]), keep=["pattern"])
    sinks = ss.find_sinks(record)
    layer = int(sinks.loc[sinks["alpha"].idxmax(), "layer"]) if len(sinks) else 1
    figure, axes = plt.subplots(
        1, 2, figsize=(15, 6.4), layout="constrained", width_ratios=(1, 1.25)
    )
    ss.plots.attention_map(record, layer=layer, ax=axes[0])
    ss.plots.sinks_over_time(record, layer=layer, ax=axes[1])
    figure.savefig(out, dpi=110)
    print(f"wrote {Path(out).resolve()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
