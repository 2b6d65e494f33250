"""What watching a run costs: the share of its time that a SinkCallback takes.

Run ``python -m tests.benchmarks.callback_cost``. A run of a Llama of 8 layers of width 512, on
batches of 4 samples of 512 tokens, is watched on 4 other samples; a look and a step are timed in
turn, by the processor, so that other processes on the machine do not count.
"""

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from transformers import TrainerControl, TrainerState

import sinkscope as ss
from tests.benchmarks.ways import random_llama


def main() -> None:
    """Print the share at a few frequencies."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    model = random_llama().train()
    ids = torch.randint(0, 1000, (4, 512), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    callback = ss.SinkCallback({"input_ids": ids}, every=1)
    state, control = TrainerState(), TrainerControl()
    callback.on_train_begin(None, state, control, model=model)
    times: dict[str, list[float]] = {"step": [], "look": []}
    for _ in range(rounds):
        start = time.process_time()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        between = time.process_time()
        callback.on_step_end(None, state, control)
        times["step"].append(between - start)
        times["look"].append(time.process_time() - between)
    ratio = float(np.median(np.array(times["look"]) / np.array(times["step"])))
    print(f"a look at 4 samples takes {ratio:.2f} of a step of 4 samples (512 tokens each)")
    for every in (25, 50, 100):
        print(f"  every {every:3d} steps: {ratio / (every + ratio):.2%} of the run")
    print("  asked: < 2 % at sensible settings")


if __name__ == "__main__":
    main()
