"""Train the tiny encoders: ``python -m sinkscope.experiments.tiny_encoders CORPUS OUT``.

Each is trained to tell the phoneme of every feature frame, a linear layer on top, and frozen after.
Half of the clips are heard in noise (white, pink or babble of other clips, -5 to 20 dB); pictures
are shifted, dimmed and partly covered. Needs about 5 GB of memory. Writes
``OUT/{audio,video}.safetensors`` and a log of the accuracy on the development voices.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.encoders import Encoder, build_encoder
from sinkscope.avsr.noise import add_noise, babble, pink_noise, white_noise
from sinkscope.experiments.corpus import read_corpus

__all__ = ["KINDS", "in_noise", "train_encoder"]

KINDS = {"audio": "tiny-audio", "video": "tiny-video"}
SILENCE = ""
RARE = 20
IGNORED = -100


@dataclass(frozen=True)
class Plan:
    """How an encoder is trained."""

    stream: str
    steps: int = 700
    batch: int = 16
    rate: float = 2e-3
    seed: int = 0


def train_encoder(corpus: Path, out: Path, plan: Plan) -> float:
    """Train one encoder and write it; returns its frame accuracy on the development voices."""
    torch.manual_seed(plan.seed)
    clips = list(read_corpus(corpus, "train"))
    dev = list(read_corpus(corpus, "dev", limit=100))
    phonemes = _inventory(clips)
    encoder = build_encoder(KINDS[plan.stream], {})
    head = nn.Linear(encoder.width, len(phonemes))
    weights = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=plan.rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.rate, total_steps=plan.steps, pct_start=0.1
    )
    out.mkdir(parents=True, exist_ok=True)
    accuracy, start = 0.0, time.monotonic()
    with (out / f"{plan.stream}.log").open("w") as log:
        for step in range(1, plan.steps + 1):
            rng = np.random.default_rng([plan.seed, step])
            chosen = [clips[i] for i in rng.integers(0, len(clips), plan.batch)]
            heard = _worse(chosen, plan.stream, rng)
            loss = _loss(encoder, head, heard, phonemes)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            if step % 100 == 0 or step == plan.steps:
                accuracy = _accuracy(encoder, head, dev, phonemes)
                line = {"step": step, "loss": loss.item(), "dev_accuracy": accuracy}
                log.write(json.dumps(line | {"seconds": time.monotonic() - start}) + "\n")
                log.flush()
                save_file(encoder.state_dict(), out / f"{plan.stream}.safetensors")
    return accuracy


def _inventory(clips: Sequence[Clip]) -> dict[str, int]:
    """Silence and every phoneme that is heard often enough, numbered."""
    counts = Counter(phoneme.label for clip in clips for phoneme in clip.phonemes)
    common = sorted(label for label, count in counts.items() if count >= RARE)
    return {label: number for number, label in enumerate([SILENCE, *common])}


def _labels(clips: Sequence[Clip], encoder: Encoder, lengths: Tensor, known: dict) -> Tensor:
    """The number of the phoneme in the middle of every frame, shape (sample, frame)."""
    labels = torch.full((len(clips), int(lengths.max())), IGNORED)
    for row, clip in enumerate(clips):
        labels[row, : int(lengths[row])] = known[SILENCE]
        for phoneme in clip.phonemes:
            first = round(phoneme.start * encoder.frame_rate)
            last = min(round(phoneme.end * encoder.frame_rate), int(lengths[row]))
            labels[row, first:last] = known.get(phoneme.label, IGNORED)
    return labels


def _loss(encoder: Encoder, head: nn.Module, clips: Sequence[Clip], known: dict) -> Tensor:
    batch, lengths = encoder.prepare(clips)
    scores = head(encoder(batch, lengths))
    labels = _labels(clips, encoder, lengths, known)
    return functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), label_smoothing=0.05)


@torch.no_grad()
def _accuracy(encoder: Encoder, head: nn.Module, clips: Sequence[Clip], known: dict) -> float:
    right = total = 0
    for start in range(0, len(clips), 20):
        part = clips[start : start + 20]
        batch, lengths = encoder.prepare(part)
        best = head(encoder(batch, lengths)).argmax(-1)
        labels = _labels(part, encoder, lengths, known)
        right += int((best == labels).sum())
        total += int((labels != IGNORED).sum())
    return right / total


def _worse(clips: Sequence[Clip], stream: str, rng: np.random.Generator) -> list[Clip]:
    """The clips as a worse microphone or camera would give them."""
    if stream == "audio":
        return [clip if rng.random() < 0.4 else in_noise(clip, clips, rng) for clip in clips]
    return [_blemished(clip, rng) for clip in clips]


def in_noise(clip: Clip, others: Sequence[Clip], rng: np.random.Generator) -> Clip:
    """The clip in white noise, pink noise or babble of the others, at -5 to 20 dB."""
    if clip.waveform is None:
        return clip
    count = len(clip.waveform)
    kind = rng.integers(3)
    if kind == 2:
        voices = [other.waveform for other in others if other.waveform is not None]
        noise = babble([voices[i] for i in rng.integers(0, len(voices), 5)], rng=rng)
    else:
        noise = (white_noise, pink_noise)[kind](count, rng=rng)
    return replace(clip, waveform=add_noise(clip.waveform, noise, rng.uniform(-5, 20), rng=rng))


def _blemished(clip: Clip, rng: np.random.Generator) -> Clip:
    """Shifted by up to 2 pixels, perhaps mirrored, with a grey patch and other light."""
    if clip.frames is None:
        return clip
    frames = clip.frames.astype(np.float32)
    frames = np.roll(frames, rng.integers(-2, 3, 2), axis=(1, 2))
    if rng.random() < 0.5:
        frames = frames[:, :, ::-1]
    if rng.random() < 0.3:
        top, left = rng.integers(0, 26, 2)
        start = int(rng.integers(0, len(frames)))
        frames[start : start + 8, top : top + 8, left : left + 8] = frames.mean()
    frames = frames * rng.uniform(0.7, 1.2) + rng.normal(0, 12)
    return replace(clip, frames=np.clip(frames, 0, 255).astype(np.uint8))


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description="Train the tiny encoders.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--stream", choices=sorted(KINDS), action="append")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for stream in given.stream or sorted(KINDS):
        plan = Plan(stream, steps=given.steps, seed=given.seed)
        accuracy = train_encoder(given.corpus, given.out, plan)
        print(f"{stream}: frame accuracy {accuracy:.3f} on the development voices")


if __name__ == "__main__":
    main()
