"""Checkpoints as the authors release them, and the base models that their users have."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperModel

from sinkscope.avsr.clip import Clip
from sinkscope.avsr.convert import Answers
from sinkscope.avsr.llm import build_llm
from tests.golden_avsr import golden_set, published_weights, tokenizer
from tests.shared_data import shared

STACKED, AVERAGED = "av_stack_a4v3_bA_sink1", "av_avg_a3v4_bB_ln_sink10000"
DRIFTED = "video_encoder.feature_extractor_video.resnet.frontend3D.1.running_mean"


def base_models(folder: Path) -> Answers:
    """The base models on disk: an LLM without the added tokens, a Whisper, an AV-HuBERT."""
    told, _, _ = golden_set()
    whole = published_weights(STACKED)
    llm = build_llm(told["llm_config"])
    rows = llm.config.vocab_size
    own = part(whole, "llm.")
    own = {k: v[:rows] if len(v) == rows + 5 else v for k, v in own.items() if "lora_" not in k}
    llm.load_state_dict(own)
    llm.save_pretrained(folder / "llm")
    tokenizer().save_pretrained(folder / "llm")
    whisper = WhisperModel(WhisperConfig(**told["whisper_config"]))
    whisper.get_encoder().load_state_dict(part(whole, "audio_encoder."))
    whisper.save_pretrained(folder / "whisper")
    seen = part(whole, "video_encoder.") | {"final_proj.bias": torch.zeros(3)}
    torch.save({"model": seen, "cfg": {"model": hubert_fields()}}, folder / "hubert.pt")
    return Answers(
        llm=str(folder / "llm"),
        encoder=str(folder / "whisper"),
        video_encoder=str(folder / "hubert.pt"),
        lora_alpha=told["lora_config"]["ALPHA"],
    )


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What begins with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def hubert_fields() -> dict[str, Any]:
    """The configuration of the golden AV-HuBERT, with fairseq's names."""
    return json.loads((shared("golden/A_avhubert_small") / "config.json").read_text())[
        "lnfirst_large"
    ]["cfg"]


def released(path: Path, case: str, changes: Mapping[str, Any] | None = None) -> Path:
    """A ``.pth`` as the authors write it."""
    torch.save(published_weights(case) | dict(changes or {}), path)
    return path


def half(case: str) -> dict[str, Tensor]:
    """The weights of a case in bfloat16, as released."""
    return {
        name: value.bfloat16() if value.is_floating_point() else value
        for name, value in published_weights(case).items()
    }


def answered(sources: Answers, case: str) -> Answers:
    """What must be said of a case."""
    told = golden_set()[0]["cases"][case]
    averages = told["mode"] != "stack"
    rates = {"audio": ("ra", None), "video": (None, "rv"), "audiovisual": ("ra", "rv")}
    heard, seen = rates.get(told["modality"], (None, None))
    return replace(
        sources,
        lora_alpha=sources.lora_alpha if told["peft"] else None,
        compression="average" if averages else "stack" if case.count("ratio1") else None,
        audio_rate=told[heard] if averages and heard else None,
        video_rate=told[seen] if averages and seen else None,
    )


def clip() -> Clip:
    """One second of noise."""
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 0.1, 16000).astype(np.float32)
    return Clip(sound, rng.integers(0, 256, (25, 96, 96), np.uint8))
