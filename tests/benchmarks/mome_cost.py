"""What a training step with a mixture of experts costs, as a ratio to one with LoRA.

Run ``python -m tests.benchmarks.mome_cost``; ``--help`` lists the choices. A step is forward,
backward and AdamW over what is trained, of a frozen Llama of 8 layers of width 512 on 4 samples of
512 tokens: LoRA on q and v at Llama-AVSR's reduction factor of 32, against MoME-23/4 (23 routed
experts, 4 active, 1 shared, bottleneck 12) in each placement, with its balance loss. Steps of all
ways take turns in one process on one thread; each ratio is that of neighbours, and the medians
(quartiles) are printed, of wall time and of processor time.
"""

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from sinkscope.avsr.config import LoraSettings
from sinkscope.avsr.lora import attach_lora
from sinkscope.avsr.mome import MomeSettings, balance_loss, hold_routing
from sinkscope.subjects.mome import attach_mome
from tests.benchmarks.ways import random_llama

SAMPLES, TOKENS = 4, 512
PLACEMENTS = ("attention", "mlp", "layer")


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--placements", nargs="*", default=list(PLACEMENTS), choices=PLACEMENTS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    steps = {"lora": _lora_step()} | {one: _mome_step(one) for one in chosen.placements}
    for step in steps.values():
        step()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(chosen.rounds):
        for name, step in steps.items():
            wall, own = time.perf_counter(), time.process_time()
            step()
            found[name].append((time.perf_counter() - wall, time.process_time() - own))
    base = np.array(found.pop("lora"))
    print("a training step with MoME-23/4, ratio to one with LoRA: median (quartiles)")
    for name, times in found.items():
        low, middle, high = np.quantile(np.array(times) / base, [0.25, 0.5, 0.75], axis=0)
        shown = [f"{m:.2f} ({a:.2f} to {b:.2f})" for a, m, b in zip(low, middle, high, strict=True)]
        print(f"  {name:10s} wall {shown[0]}   processor {shown[1]}")
    print(f"  asked: <= 1.35   (a step with LoRA: {np.median(base[:, 0]):.2f} s)")


def _lora_step() -> Callable[[], None]:
    model = random_llama().train()
    attach_lora(model, LoraSettings(reduction=32, alpha=4))
    batch, optimizer = _batch(), _optimizer(model)

    def step() -> None:
        model(**batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _mome_step(placement: str) -> Callable[[], None]:
    settings = MomeSettings(placement=placement)
    model = attach_mome(random_llama().train(), settings)
    batch, optimizer = _batch(), _optimizer(model)

    def step() -> None:
        with hold_routing(model) as routing:
            loss = model(**batch, use_cache=False).loss + balance_loss(routing, settings)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)


def _batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 1000, (SAMPLES, TOKENS), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "labels": ids}


if __name__ == "__main__":
    main()
