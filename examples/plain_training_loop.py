"""Fine-tune with the decorrelation loss in a training loop of your own, and watch BOS's twins go.

    python examples/plain_training_loop.py [CHECKPOINT [CLIP ...]]

Without arguments: the bundled model on the bundled clips, whose texts are known. Writes
``plain_training_loop.png``.
"""

import sys

import matplotlib.pyplot as plt
import torch

import sinkscope as ss

STEPS, WEIGHT = 30, 1.0


def main(checkpoint: str = "tiny-avsr", *paths: str) -> None:
    subject = ss.load(checkpoint, dtype="float32")
    model = subject.model
    clips = [ss.read_clip(path) for path in paths or ss.bundled_clips()]
    for clip in clips:
        if not clip.text:
            raise SystemExit(
                f"{clip.name} has no text to learn; read it with ss.read_clip(path, text=...)."
            )
    before = ss.record(subject, clips)

    trained = [p for name, p in model.named_parameters() if "encoder" not in name]
    optimizer = torch.optim.AdamW(trained, lr=3e-4)
    curves = {"cross-entropy": [], "decorrelation": []}
    for _ in range(STEPS):
        inputs = model.prepare(clips, texts=[clip.text for clip in clips])
        compared = inputs.attention_mask & (inputs.labels == -100)  # all before the transcript
        compared[:, 0] = False  # but BOS, which they are compared with
        with ss.hold_states(model.llm) as states:
            loss = model(inputs, use_cache=False).loss
            term = ss.decorrelation_loss(states, compared, weight=WEIGHT)
        optimizer.zero_grad()
        (loss + term).backward()
        optimizer.step()
        for curve, value in zip(curves.values(), (loss, term), strict=True):
            curve.append(value.item())

    after = ss.record(subject, clips)
    figure = plt.figure(figsize=(16, 4.4), layout="constrained")
    parts = figure.subfigures(1, 3, width_ratios=(0.8, 1.1, 1.1))
    titles = ("The two parts of the loss", "Before", f"After {STEPS} steps")
    axes = [part.subplots() for part in parts]
    for part, title in zip(parts, titles, strict=True):
        part.suptitle(title, fontweight="bold")
    for name, curve in curves.items():
        axes[0].plot(curve, label=name)
    axes[0].set(xlabel="step", ylabel="loss", yscale="log")
    axes[0].legend()
    for own, record in zip(axes[1:], (before, after), strict=True):
        ss.plots.bos_cosine(record, ax=own).set_ylim(-0.3, 1.05)
    figure.savefig("plain_training_loop.png", dpi=120)


if __name__ == "__main__":
    main(*sys.argv[1:])
