"""What a tiny model understands of unseen voices, clean and in noise. Depends on torch.

Example:
    >>> table = evaluate(model, read_corpus(corpus, "test"))        # doctest: +SKIP
    >>> table["audio, rate 4"]["wer"]                               # doctest: +SKIP
    0.05
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

import numpy as np
from tqdm import tqdm

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.evaluation import word_errors
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.avsr.noise import add_noise, babble

__all__ = ["CLEAN", "NOISE", "evaluate", "in_babble"]

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
