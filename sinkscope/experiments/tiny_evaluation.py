"""What a tiny model understands of unseen voices, clean and in noise. Depends on torch.

Example:
    >>> table = evaluate(model, read_corpus(corpus, "test"))        # doctest: +SKIP
    >>> table["audio, rate 4"]["wer"]                               # doctest: +SKIP
    0.05
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

import numpy as np
import torch
from tqdm import tqdm

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.evaluation import word_errors
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.noise import add_noise, babble

__all__ = ["CLEAN", "NOISE", "evaluate", "extremes", "in_babble"]

CLEAN: dict[str, tuple[str, int, int]] = {
    "audio, rate 4": ("audio", 4, 2),
    "video, rate 2": ("video", 4, 2),
    "both, rates 4 and 2": ("audiovisual", 4, 2),
    "audio, rate 16": ("audio", 16, 5),
    "video, rate 5": ("video", 16, 5),
    "both, rates 16 and 5": ("audiovisual", 16, 5),
}
"""Modality and rates by what they are called in a table."""

NOISE: tuple[float, ...] = (10.0, 5.0, 0.0, -5.0)
"""Signal-to-noise ratios, dB."""

BATCH = 20
SINK, HALF, QUERIES = 0.3, 0.5, 8
ALIKE = 0.8
VOICES = 5


def evaluate(
    model: LlamaAvsr, clips: Iterable[Clip], *, snrs: Sequence[float] = NOISE
) -> dict[str, dict]:
    """Word errors by condition: `CLEAN`, then audio and both in babble of the other clips.

    Args:
        model: what transcribes.
        clips: with sound, picture and text.
        snrs: signal-to-noise ratios of the babble, dB.
    """
    clean = list(clips)
    conditions = [(name, clean, *setting) for name, setting in CLEAN.items()]
    for snr in snrs:
        noisy = in_babble(clean, snr)
        for name in ("audio, rate 4", "both, rates 4 and 2"):
            conditions.append((f"{name}, babble at {snr:g} dB", noisy, *CLEAN[name]))
    table = {}
    for name, heard, modality, audio_rate, video_rate in tqdm(conditions, unit="condition"):
        said: list[str] = []
        for start in range(0, len(heard), BATCH):
            said += model.transcribe(
                heard[start : start + BATCH],
                modality=modality,  # pyright: ignore[reportArgumentType]
                audio_rate=audio_rate,
                video_rate=video_rate,
                max_new_tokens=30,
            )
        errors = word_errors([clip.text or "" for clip in heard], said)
        table[name] = {"wer": errors.rate, **asdict(errors)}
    return table


def in_babble(clips: Sequence[Clip], snr: float, *, seed: int = 0) -> list[Clip]:
    """The clips, each in babble of five of them, at ``snr`` dB; sounds are needed."""
    sounds = [clip.waveform for clip in clips if clip.waveform is not None]
    noisy = []
    for number, clip in enumerate(clips):
        if clip.waveform is None:
            noisy.append(clip)
            continue
        rng = np.random.default_rng([seed, number])
        noise = babble([sounds[i] for i in rng.integers(0, len(sounds), VOICES)], rng=rng)
        noisy.append(replace(clip, waveform=add_noise(clip.waveform, noise, snr, rng=rng)))
    return noisy


@torch.no_grad()
def extremes(model: LlamaAvsr, clips: Sequence[Clip], *, setting: str) -> dict:
    """Where attention and activations are extreme before a word is written, for a log.

    Args:
        model: with eager attention.
        clips: one forward pass each.
        setting: a key of `CLEAN`.

    Returns:
        ``sinks``: the share of clips in which a token of this name has a key attention above .3 in
        at least half of a block's heads, over at least 8 queries, by ``"block name"``; ``ratio``:
        BOS's largest activation over the median of all tokens, a mean over clips for each block;
        ``twins``: the tokens a clip that have a cosine above .8 to BOS after the second block, by
        name.
    """
    modality, audio_rate, video_rate = CLEAN[setting]
    found: Counter[str] = Counter()
    twins: Counter[str] = Counter()
    ratios = []
    for clip in clips:
        inputs = model.prepare(
            [clip],
            modality=modality,  # pyright: ignore[reportArgumentType]
            audio_rate=audio_rate,
            video_rate=video_rate,
        )
        names = [span.name for span in inputs.spans[0] for _ in range(span.start, span.stop)]
        output = model(inputs, use_cache=False, output_attentions=True, output_hidden_states=True)
        here = set()
        for block, pattern in enumerate(output.attentions):
            queries = torch.arange(len(names), 0, -1)
            key_attention = pattern[0].sum(1) / queries
            share = ((key_attention > SINK) & (queries >= QUERIES)).float().mean(0)
            here |= {f"{block} {names[i]}" for i in torch.nonzero(share >= HALF)[:, 0].tolist()}
        found.update(here)
        states = [state[0] for state in output.hidden_states[1:]]
        ratios.append([float(s[0].abs().max() / s.abs().median()) for s in states])
        cosine = torch.cosine_similarity(states[1][:1], states[1], dim=-1)
        twins.update(names[i] for i in torch.nonzero(cosine > ALIKE)[:, 0].tolist() if i)
    count = len(clips)
    return {
        "clips": count,
        "sinks": {name: round(number / count, 3) for name, number in sorted(found.items())},
        "ratio": np.mean(ratios, axis=0).round(1).tolist(),
        "twins": {name: round(number / count, 2) for name, number in twins.most_common()},
    }
