"""A handful of short clips with texts, made in a moment, and settings to train on them."""

import csv
from pathlib import Path

import numpy as np
import soundfile
import yaml

TEXTS = (
    "bin blue at f two now",
    "set red in j six again",
    "lay green by k one soon",
    "place white with q three please",
    "bin red at a nine now",
    "lay white in t five soon",
)


def write_corpus(folder: Path, *, clips: int = 6) -> Path:
    """Sounds of chords, one for each word, and a manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    words = sorted({word for text in TEXTS for word in text.split()})
    tones = {word: rng.uniform(200, 3000, 3) for word in words}
    clock = np.arange(3200) / 16_000
    rows = []
    for number in range(clips):
        text = TEXTS[number % len(TEXTS)]
        chords = [np.sin(2 * np.pi * np.outer(tones[w], clock)).mean(0) for w in text.split()]
        sound = np.concatenate(chords) * rng.uniform(0.1, 0.5)
        path = folder / f"clip{number}.wav"
        soundfile.write(path, sound.astype(np.float32), 16_000)
        rows.append((path.name, text))
    manifest = folder / "clips.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "text"), *rows])
    return manifest


def settings(manifest: Path, **changes):
    """Settings of a short run that draws everything that can be drawn."""
    given = {
        "model": "tiny-avsr",
        "train": str(manifest),
        "dev": str(manifest),
        "llm": "lora",
        "lora": {"reduction": 16, "alpha": 8},
        "delimiters": True,
        "dropout": 0.1,
        "audio_rates": [4, 8],
        "modalities": ["audio"],
        "decorrelation": {"weight": 1.0, "warmup": 0.2},
        "noise": {"kind": "babble", "share": 0.5, "snr": [0, 10]},
        "steps": 30,
        "batch_frames": 100,
        "accumulation": 2,
        "learning_rate": 1e-3,
        "log_every": 1,
        "save_every": 3,
    }
    return given | changes


def write_settings(path: Path, manifest: Path, **changes) -> Path:
    """The same as a file."""
    path.write_text(yaml.safe_dump(settings(manifest, **changes)))
    return path
