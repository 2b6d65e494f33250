"""What looking at a multimodal model costs, beside what it costs on a Llama of the same size.

Run ``python -m tests.benchmarks.multimodal_cost``. Three composites of transformers, each with an
LLM of 8 layers × 512 and 2,048 tokens, most of them of sound and film; time and peak memory of the
default record and of the job of ``overhead``, as ratios to the composite's own plain forward, in
one run with the same ratios of the Llama. Asked: within 0.15 of the Llama's.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from torch import Tensor, nn

import sinkscope as ss
from tests.benchmarks.overhead import MIB, cell, peak, reset_peak
from tests.benchmarks.ways import JOB, random_llama

Inputs = dict[str, Any]

TEXT: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 16384,
    "bos_token_id": None,
    "eos_token_id": 2,
}
AUDIO: dict[str, Any] = {
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "num_mel_bins": 16,
}
VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 64,
    "num_heads": 4,
    "intermediate_size": 128,
    "patch_size": 4,
    "out_hidden_size": 512,
    "fullatt_block_indexes": [1],
}
ROPE = {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 10_000.0}
SOUND, FILM = 901, 902
HEAR, HEARD, SEE, SEEN = range(904, 908)
"""What opens and closes sound and film."""
IDS = {
    "image_token_id": 903,
    "video_token_id": FILM,
    "vision_start_token_id": SEE,
    "vision_end_token_id": SEEN,
}


def qwen2_5_omni() -> nn.Module:
    """Sound and film."""
    from transformers import Qwen2_5OmniThinkerConfig as Config
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    config = Config(
        text_config=TEXT | {"rope_parameters": ROPE},
        audio_config=AUDIO | {"output_dim": 512, "n_window": 100},
        vision_config=VISION | {"embed_dim": 64},
        audio_token_id=SOUND,
        audio_start_token_id=HEAR,
        audio_end_token_id=HEARD,
        **IDS,
    )
    return Thinker(config).eval()


def qwen2_5_vl() -> nn.Module:
    """Film."""
    from transformers import Qwen2_5_VLConfig as Config
    from transformers import Qwen2_5_VLForConditionalGeneration as Model

    config = Config(text_config=TEXT | {"rope_parameters": ROPE}, vision_config=VISION, **IDS)
    return Model(config).eval()


def qwen2_audio() -> nn.Module:
    """Sound."""
    from transformers import Qwen2AudioConfig as Config
    from transformers import Qwen2AudioForConditionalGeneration as Model

    audio = AUDIO | {"max_source_positions": 1500}
    config = Config(text_config=TEXT, audio_config=audio, audio_token_index=SOUND)
    return Model(config).eval()


def sounds(count: int, each: int) -> Inputs:
    """Log-mel frames of sounds that become ``each`` tokens."""
    mask = torch.zeros(count, 3000, dtype=torch.long)
    mask[:, : 4 * each] = 1
    return {"input_features": torch.randn(count, 16, 3000), "feature_attention_mask": mask}


def film(tokens: int) -> Inputs:
    """Patches of a film of 8 × 8 tokens a frame."""
    grid = torch.tensor([[tokens // 64, 16, 16]])
    return {"pixel_values_videos": torch.randn(tokens * 4, 3 * 2 * 16), "video_grid_thw": grid}


def inputs_of(name: str, tokens: int) -> Inputs:
    """Text of 64 tokens and the rest of sound and film."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(0, 900, (64,), generator=generator).tolist()
    heard = (tokens - 80) // 2 if name == "qwen2_5_omni" else tokens - 80
    parts = -(-heard // 700)
    each = heard // parts
    given: Inputs = {}
    ids = words[:32]
    if name != "qwen2_5_vl":
        given |= sounds(parts, each)
        for _ in range(parts):
            ids = [*ids, HEAR, *[SOUND] * each, HEARD]
    if name != "qwen2_audio":
        seen = (tokens - len(ids) - 34) // 64 * 64
        given |= film(seen)
        ids = [*ids, SEE, *[FILM] * seen, SEEN]
    ids = [*ids, *(words * 3)[: tokens - len(ids)]]
    row = torch.tensor([ids])
    given |= {"input_ids": row, "attention_mask": torch.ones_like(row)}
    if name == "qwen2_5_vl":
        given["mm_token_type_ids"] = 2 * (row == FILM).long()
    if name == "qwen2_5_omni":
        given["video_second_per_grid"] = torch.tensor([1.0])
    return given


def llama_inputs(tokens: int) -> Inputs:
    """As in ``overhead``."""
    generator = torch.Generator().manual_seed(1)
    return {"input_ids": torch.randint(0, 1000, (1, tokens), generator=generator)}


MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": random_llama,
    "qwen2_5_omni": qwen2_5_omni,
    "qwen2_audio": qwen2_audio,
    "qwen2_5_vl": qwen2_5_vl,
}
WAYS: dict[str, Any] = {"plain forward": None, "job": JOB, "default record": ()}


def made(name: str, tokens: int) -> Inputs:
    """The input of one model."""
    torch.manual_seed(1)
    return llama_inputs(tokens) if name == "llama" else inputs_of(name, tokens)


def run(model: nn.Module, inputs: Inputs, way: str) -> Tensor:
    """One forward, in one of the ways; its logits."""
    if way == "plain forward":
        return model(**inputs, use_cache=False).logits
    with ss.probe(model, WAYS[way] or None):
        return model(**inputs, use_cache=False).logits


def times(tokens: int, rounds: int) -> None:
    """Print the ratios of time, all models interleaved."""
    models = {}
    for name, make in MODELS.items():
        torch.manual_seed(0)
        models[name] = make(), made(name, tokens)
    seconds: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds + 1):
        for name, (model, inputs) in models.items():
            for way in WAYS:
                start = time.process_time()
                logits = run(model, inputs, way)
                if turn:
                    seconds.setdefault((name, way), []).append(time.process_time() - start)
                elif way == "plain forward":
                    expected = logits
                else:
                    assert torch.equal(logits, expected), f"{name}, {way}: logits differ"
    print(f"{tokens} tokens: processor time, ratio to the plain forward, median (quartiles)")
    for way in list(WAYS)[1:]:
        llama = 0.0
        for name in models:
            ratios = np.array(seconds[name, way]) / np.array(seconds[name, "plain forward"])
            llama = llama or float(np.median(ratios))
            apart = float(np.median(ratios)) - llama
            print(f"  {way:16s} {name:14s}{cell(ratios)}   {apart:+.2f} of the Llama's", flush=True)


def memory(tokens: int) -> None:
    """Print the ratios of peak memory above the loaded model."""
    print(f"\n{tokens} tokens: peak memory above the model, MiB, and ratio to the plain forward")
    llama: dict[str, float] = {}
    for name in MODELS:
        peaks = {way: in_child(name, way, tokens) for way in WAYS}
        for way in list(WAYS)[1:]:
            ratio = peaks[way] / peaks["plain forward"]
            apart = ratio - llama.setdefault(way, ratio)
            print(
                f"  {way:16s} {name:14s} {peaks['plain forward']:6.0f} -> {peaks[way]:6.0f}"
                f"   {ratio:.2f}   {apart:+.2f} of the Llama's",
                flush=True,
            )


def in_child(name: str, way: str, tokens: int, runs: int = 3) -> float:
    """The median peak of a few fresh processes, MiB."""
    command = [sys.executable, "-m", "tests.benchmarks.multimodal_cost"]
    command += ["--child", name, way, str(tokens)]
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
    peaks = []
    for _ in range(runs):
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        peaks.append(float(done.stdout.split()[-1]))
    return float(np.median(peaks))


def child(name: str, way: str, tokens: int) -> float:
    """Peak resident memory of one run, above that after a run on fewer tokens, MiB."""
    torch.manual_seed(0)
    model = MODELS[name]()
    run(model, made(name, 256), way)
    inputs = made(name, tokens)
    before = reset_peak()
    run(model, inputs, way)
    return (peak() - before) / MIB


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        if chosen.child:
            name, way, tokens = chosen.child
            print(child(name, way, int(tokens)))
            return
        times(chosen.tokens, chosen.rounds)
        if not chosen.no_memory:
            memory(2 * chosen.tokens)


if __name__ == "__main__":
    main()
