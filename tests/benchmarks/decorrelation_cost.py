"""What training with the decorrelation loss costs: time and peak memory of a step, as ratios.

Run ``python -m tests.benchmarks.decorrelation_cost``; ``--help`` lists the choices. A step is
forward, backward and AdamW of a Llama of 8 layers of width 512, on 4 samples of 512 tokens, of
which 500 are compared with BOS. Steps with and without the loss take turns in one process on one
thread; each ratio is that of two neighbours, and the medians (quartiles) are printed. Memory is the
peak above the loaded model and optimiser, each in a process of its own.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

import sinkscope as ss
from tests.benchmarks.overhead import MIB, peak, reset_peak
from tests.benchmarks.ways import random_llama

SAMPLES, TOKENS, COMPARED = 4, 512, 500
WAYS = ("without", "with")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    """Print the ratios that were asked for."""
    chosen = _choices()
    torch.set_num_threads(1)
    if chosen.child:
        print(_peak_of(*chosen.child))
        return
    print("a training step with the decorrelation loss, ratio to one without: median (quartiles)")
    for dtype in chosen.dtypes:
        _print_times(dtype, chosen.rounds)
        if not chosen.no_memory:
            without, own = (_in_child(dtype, way) for way in WAYS)
            print(f"  {dtype:9s} peak memory  {own / without:.3f}   ({without:.0f} MiB without)")
    print("  asked: <= 1.05 for both")


def _choices() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dtypes", nargs="*", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def _stepper(dtype: str) -> Callable[[str], None]:
    """Takes a training step, with the loss or without."""
    model = random_llama().to(DTYPES[dtype]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(0, 1000, (SAMPLES, TOKENS), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, :COMPARED] = -100
    compared = labels == -100
    compared[:, 0] = False

    def step(way: str) -> None:
        if way == "without":
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        else:
            with ss.hold_states(model) as states:
                loss = model(input_ids=ids, labels=labels, use_cache=False).loss
                loss = loss + ss.decorrelation_loss(states, compared, weight=1.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _print_times(dtype: str, rounds: int) -> None:
    step = _stepper(dtype)
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for turn in range(rounds + 1):
        for way in WAYS if turn % 2 else WAYS[::-1]:
            start = time.perf_counter(), time.process_time()
            step(way)
            taken = time.perf_counter() - start[0], time.process_time() - start[1]
            if turn:
                seconds[way].append(taken)
    ratios = np.array(seconds["with"]) / np.array(seconds["without"])
    for name, column in zip(("time", "processor time"), ratios.T, strict=True):
        low, middle, high = np.quantile(column, [0.25, 0.5, 0.75])
        print(f"  {dtype:9s} {name:14s} {middle:.3f} ({low:.3f} to {high:.3f})", flush=True)
    plain = np.median(np.array(seconds["without"]), axis=0)
    print(f"  {dtype:9s} a step without took {plain[0]:.2f} s, {plain[1]:.2f} s of the processor")


def _in_child(dtype: str, way: str, runs: int = 3) -> float:
    """The median peak of a few fresh processes, MiB."""
    command = [sys.executable, "-m", "tests.benchmarks.decorrelation_cost", "--child", dtype, way]
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
    found = []
    for _ in range(runs):
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        found.append(float(done.stdout.split()[-1]))
    return float(np.median(found))


def _peak_of(dtype: str, way: str) -> float:
    """Peak resident memory of a second step, above model, gradients and optimiser, MiB."""
    step = _stepper(dtype)
    step(way)
    before = reset_peak()
    step(way)
    return (peak() - before) / MIB


if __name__ == "__main__":
    main()
