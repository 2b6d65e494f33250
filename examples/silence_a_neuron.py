"""Which neuron writes the massive activations of a model, and what is the model without it?

    python examples/silence_a_neuron.py [CHECKPOINT [CLIP ...]]

Without arguments: the bundled model on the bundled clips. Writes ``silence_a_neuron.png``.
"""

import sys

import sinkscope as ss


def main(checkpoint: str = "tiny-avsr", *paths: str) -> None:
    subject = ss.load(checkpoint)
    clips = [ss.read_clip(path) for path in paths or ss.bundled_clips()]

    massive = ss.find_massive_activations(ss.record(subject, clips))
    origin = ss.trace_origin(ss.trace(subject, clips, at=massive))
    print(ss.describe(origin.births))

    leading = origin.births.dropna(subset=["neuron"])
    layer, neuron = leading.groupby(["layer", "neuron"]).size().idxmax()
    conditions = {
        f"without neuron {neuron} of layer {layer}": ss.knock_out(layers=layer, neurons=neuron),
        "without another one": ss.knock_out(layers=layer, neurons=(neuron + 1) % 8),
    }
    effects = ss.measure(subject, clips, conditions).summary
    print(ss.describe(effects))
    axes = ss.plots.effects(effects, metric="loss", controls=("without another one",))
    axes.figure.savefig("silence_a_neuron.png", dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main(*sys.argv[1:])
