"""Fine-tune the tiny audio-visual LLM on cached features, beside windows of its pre-training task.

The windows keep its heads conditionally useful, so that they go on needing a place to rest. One
model learns all modalities and rates, from single sentences first and from whole utterances later,
with a dense target for the audio and video tokens (`sinkscope.experiments.curriculum`). A run
writes a checkpoint every ``EVERY`` steps and goes on from the last one.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from sinkscope.avsr.inputs import IGNORED, Inputs
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.experiments.backcopy import Backcopy
from sinkscope.experiments.curriculum import Utterance, cut, heard_words, sentences_of
from sinkscope.experiments.tiny_features import FeatureStore
from sinkscope.experiments.tiny_listening import (
    MODALITIES,
    lay_out,
    restrict,
    sinks_of,
    word_rate,
)
from sinkscope.training.decorrelation import decorrelation_loss

__all__ = ["Schedule", "before_the_transcript", "choose", "fine_tune", "warm_cosine"]

EVERY = 200
EASY = (4, 2)
RATES = 7 * (EASY,) + 2 * ((8, 3), (6, 3)) + ((16, 5),)
NEIGHBOURS = 300
WHOLE = 9
SHORT = 0.7
WATCHED = {
    "wer_audiovisual": ("audiovisual", EASY),
    "wer_audio": ("audio", EASY),
    "wer_video": ("video", EASY),
    "wer_audio_16": ("audio", (16, 5)),
}
NOISY, NOISY_AT_FIRST = 0.35, 0.1


@dataclass(frozen=True)
class Schedule:
    """How a model is fine-tuned.

    Attributes:
        steps: optimiser steps.
        batch: whole utterances a step; of single sentences 2.2 times as many.
        windows: windows of 64 tokens of the pre-training task a step, or a third of 192 tokens.
        windows_weight: weight of their loss beside that of the transcripts.
        heard: weight of the dense loss at the first step; it falls to 0 over the run.
        heard_until: share of the steps after which the dense loss is gone.
        rate: highest learning rate.
        decorrelation: weight of the mean squared cosine to BOS; 0 leaves it out.
        one: share of the steps, from the first, with single sentences only.
        two: share of the steps after those with two sentences at most.
        single: share of the later steps that still have single sentences.
        easy: share of the steps, from the first, at rates 4 and 2 only and mostly without noise.
        rates: what is drawn from, once for a step: encoder frames a token of sound and of picture.
        modalities: taken in turns.
        against: what the decorrelation compares with: BOS, or one random direction (a control).
        watched: word error rates of the learning curve, by name: modality and rates.
        every: steps from one entry of the learning curve, and checkpoint, to the next.
        seed: of every draw.
    """

    steps: int = 1600
    batch: int = 10
    windows: int = 12
    windows_weight: float | int = 1.0
    heard: float = 1.0
    heard_until: float = 0.8
    rate: float = 2e-3
    decorrelation: float = 0.0
    one: float = 0.35
    two: float = 0.2
    single: float = 0.25
    easy: float = 0.25
    rates: tuple[tuple[int, int], ...] = RATES
    modalities: tuple[str, ...] = tuple(MODALITIES)
    against: Literal["bos", "random"] = "bos"
    watched: dict[str, tuple[str, tuple[int, int]]] = field(default_factory=lambda: dict(WATCHED))
    every: int = EVERY
    seed: int = 0


def fine_tune(
    model: LlamaAvsr, store: FeatureStore, dev: FeatureStore, task: Backcopy, out: Path, s: Schedule
) -> list[dict]:
    """Train in place; returns the learning curve on the development voices."""
    out.mkdir(parents=True, exist_ok=True)
    trained = [
        p for name, p in model.named_parameters() if p.requires_grad and "encoder" not in name
    ]
    optimizer = torch.optim.AdamW(trained, lr=s.rate, betas=(0.9, 0.95), weight_decay=0.0)
    state = out / "state.pt"
    first, curve = 0, []
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first, curve = saved["step"], json.loads(saved["curve"])
    by_length = np.argsort([len(features["audio"]) for features in store.clean])
    start = time.monotonic()
    for step in range(first, s.steps):
        for group in optimizer.param_groups:
            group["lr"] = s.rate * warm_cosine(step, s.steps)
        parts = _losses(model, store, by_length, task, s, step)
        optimizer.zero_grad()
        sum(parts.values(), torch.zeros(())).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if (step + 1) % s.every == 0 or step + 1 == s.steps:
            losses = {name: part.item() for name, part in parts.items()}
            curve.append({"step": step + 1, **losses, **_progress(model, dev, s)})
            curve[-1]["seconds"] = round(time.monotonic() - start)
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps({**curve[-1], "schedule": asdict(s)}) + "\n")
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(saved | {"step": step + 1, "curve": json.dumps(curve)}, out / "new.pt")
            (out / "new.pt").replace(state)
    return curve


def _losses(
    model: LlamaAvsr,
    store: FeatureStore,
    by_length: np.ndarray,
    task: Backcopy,
    s: Schedule,
    step: int,
) -> dict[str, Tensor]:
    """The parts of the loss of one step; every draw comes from (seed, step)."""
    rng = np.random.default_rng([s.seed, step])
    done = step / s.steps
    modality = s.modalities[step % len(s.modalities)]
    sentences = _sentences(s, done, rng)
    chosen = choose(by_length, s.batch, sentences, rng)
    rates = s.rates[int(rng.integers(len(s.rates)))] if done >= s.easy else EASY
    noisy = rng.random() <= (NOISY if done >= s.easy else NOISY_AT_FIRST)
    heard = store.noisy if noisy else store.clean
    said = [_part(Utterance(heard[i], store.words[i]), sentences, rng) for i in chosen]
    length, share = (64, 1) if rng.random() < SHORT else (192, 3)
    with torch.autocast("cpu", torch.bfloat16):
        features = [restrict(utterance.features, modality) for utterance in said]
        inputs = lay_out(model, features, rates, texts=[utterance.text for utterance in said])
        output = model(inputs, use_cache=False, output_hidden_states=s.decorrelation > 0)
        windows = torch.from_numpy(task.windows(s.windows // share, length, rng=rng))
        rest = model.llm(input_ids=windows, labels=windows, use_cache=False)
    parts = {"speech": output.loss, "windows": s.windows_weight * rest.loss}
    weight = s.heard * max(0.0, 1 - done / s.heard_until)
    if weight > 0:
        vocabulary = model.tokenizer.get_vocab()
        labels = heard_words(inputs, [utterance.words for utterance in said], vocabulary)
        scores = output.logits.float().flatten(0, 1)
        parts["heard"] = weight * nn.functional.cross_entropy(scores, labels.flatten())
    if s.decorrelation > 0:
        parts["decorrelation"] = decorrelation_loss(
            output.hidden_states,
            before_the_transcript(inputs),
            weight=s.decorrelation,
            reference="bos" if s.against == "bos" else _random_direction(model, s.seed),
        )
    return parts


def _sentences(s: Schedule, done: float, rng: np.random.Generator) -> int:
    """The number of sentences of this step's utterances at most."""
    if done < s.one or rng.random() < s.single:
        return 1
    return 2 if done < s.one + s.two else WHOLE


def choose(
    by_length: np.ndarray, batch: int, sentences: int, rng: np.random.Generator
) -> Int64[np.ndarray, " sample"]:
    """Utterances of a step; whole ones are of like length."""
    near = int(rng.integers(0, max(1, len(by_length) - NEIGHBOURS)))
    if sentences == WHOLE:
        return rng.choice(by_length[near : near + NEIGHBOURS], batch, replace=False)
    return rng.choice(by_length, round(2.2 * batch / sentences), replace=False)


def _part(whole: Utterance, sentences: int, rng: np.random.Generator) -> Utterance:
    """So many neighbouring sentences of an utterance, or all of it."""
    rest = sentences_of(whole) - sentences
    if rest <= 0:
        return whole
    return cut(whole, int(rng.integers(0, rest + 1)), sentences)


def before_the_transcript(inputs: Inputs) -> Bool[Tensor, "sample token"]:
    """The tokens that decorrelation compares with BOS: no padding, no transcript, not BOS."""
    spoken = inputs.labels != IGNORED if inputs.labels is not None else ~inputs.attention_mask
    others = inputs.attention_mask & ~spoken
    others[:, 0] = False
    return others


def _random_direction(model: LlamaAvsr, seed: int) -> Float[Tensor, " feature"]:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(model.config.hidden_size, generator=draws)


def _progress(model: LlamaAvsr, dev: FeatureStore, s: Schedule, *, clips: int = 40) -> dict:
    part = FeatureStore(dev.clean[:clips], dev.noisy[:clips], dev.texts[:clips])
    model.eval()
    rates = {
        name: round(word_rate(model, part, modality, at).rate, 3)
        for name, (modality, at) in s.watched.items()
    }
    found = sinks_of(model, part)
    model.train()
    return {**rates, "sinks": found}


def warm_cosine(step: int, steps: int, *, warm: int = 100) -> float:
    """The learning rate as a share of its highest: a rise, then a cosine down to a tenth."""
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))
