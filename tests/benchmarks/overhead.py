"""What looking costs: time and memory of a probe, as ratios to a plain forward.

Run ``python -m tests.benchmarks.overhead``; ``--help`` lists the choices. Times are medians over
interleaved rounds in one process on one thread, each divided by the plain forward of its own round;
processor time leaves out what other processes took meanwhile.
Memory is the peak above the loaded model, each in a process of its own. Another process on the
machine moves single figures by tenths: run it on a quiet machine, or with more rounds.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from tests.benchmarks import ways

OURS = {"plain forward": ways.plain, "job": ways.job, "default record": ways.default_record}
PEERS = {
    "transformers, output_attentions=True": ways.output_attentions,
    "transformers eager, reducing hooks": ways.eager_hooks,
    "transformer-lens bridge, run_with_hooks": ways.bridge_hooks,
}
ASKED = {("job", 2048): 1.30, ("job", 4096): 1.40, ("default record", 2048): 1.55}
MIB = 2**20


def main() -> None:
    """Print the tables that were asked for."""
    chosen = _choices()
    if chosen.child:
        name, tokens = chosen.child
        print(_peak_above_model(name, int(tokens)))
        return
    torch.set_num_threads(1)
    with torch.no_grad():
        for tokens in chosen.tokens:
            _print_times(tokens, chosen.rounds, peers=not chosen.no_peers)
    if not chosen.no_memory:
        _print_memory(peers=not chosen.no_peers)


def _choices() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="*", default=[2048, 4096])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def _runners(names: Sequence[str]) -> dict[str, tuple[ways.Way, object]]:
    """Each way with the model that it runs: the peers force or need eager attention."""
    sdpa = ways.random_llama()
    runners: dict[str, tuple[ways.Way, object]] = {}
    for name in names:
        if name in OURS:
            runners[name] = (OURS[name], sdpa)
            continue
        model = ways.random_llama(eager=True)
        if name.startswith("transformer-lens"):
            with tempfile.TemporaryDirectory() as folder:
                model = ways.bridge_of(model, folder)
        runners[name] = (PEERS[name], model)
    return runners


def _present(peers: bool) -> list[str]:
    names = [*OURS, *(PEERS if peers else ())]
    if peers and not ways.has_transformer_lens():
        print("transformer-lens is not installed (pip install 'sinkscope[transformer-lens]')")
        names = [name for name in names if not name.startswith("transformer-lens")]
    return names


def _print_times(tokens: int, rounds: int, *, peers: bool) -> None:
    runners = _runners(_present(peers))
    ids = torch.randint(0, 1000, (1, tokens), generator=torch.Generator().manual_seed(1))
    model = runners["plain forward"][1]
    expected = ways.plain(model, ids)  # pyright: ignore[reportArgumentType]
    for name in ("job", "default record"):
        run, _ = runners[name]
        assert torch.equal(run(model, ids), expected), f"{name}: logits differ"
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runners}
    for turn in range(rounds):
        few = max(2, rounds // 3)
        for name, (run, own) in runners.items():
            if name in PEERS and turn >= few:
                continue
            start = time.perf_counter(), time.process_time()
            run(own, ids)
            taken = time.perf_counter() - start[0], time.process_time() - start[1]
            seconds[name].append(taken)
    print(f"\n{tokens} tokens: ratio to a plain forward, median (quartiles); logits bit-identical")
    print(f"  {'':42s} {'time':^20s} {'processor time':^20s}")
    floor = np.array(seconds["plain forward"])
    for name, taken in seconds.items():
        ratios = np.array(taken) / floor[: len(taken)]
        cells = "".join(cell(column) for column in ratios.T)
        asked = ASKED.get((name, tokens))
        note = f"  asked: <= {asked:.2f}" if asked else ""
        print(f"  {name:42s}{cells}{note}", flush=True)
    print("  a plain forward took {:.2f} s, {:.2f} s of the processor".format(*np.median(floor, 0)))


def cell(ratios: np.ndarray) -> str:
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return f"   {middle:5.2f} ({low:.2f} to {high:.2f})"


def _print_memory(*, peers: bool) -> None:
    lengths = [1024, 2048, 4096, 8192]
    print("\npeak memory above the loaded model, MiB; growth exponent over these lengths")
    print(f"  {'':42s}" + "".join(f"{tokens:>8d}" for tokens in lengths) + "  growth  at 4096")
    floor = None
    for name in _present(peers):
        own = lengths if name in OURS else lengths[:3]
        peaks = [_in_child(name, tokens) for tokens in own]
        growth = np.polyfit(np.log(own), np.log(peaks), 1)[0]
        floor = floor or peaks[2]
        cells = "".join(f"{peak:8.0f}" for peak in peaks) + " " * 8 * (len(lengths) - len(own))
        print(f"  {name:42s}{cells}  {growth:6.2f}  {peaks[2] / floor:5.2f} x plain", flush=True)
    print("  asked: at 4096 <= 2 x plain, growth <= 1.2")


def _in_child(name: str, tokens: int, runs: int = 3) -> float:
    """The median peak of a few fresh processes, MiB."""
    command = [sys.executable, "-m", "tests.benchmarks.overhead", "--child", name, str(tokens)]
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
    peaks = []
    for _ in range(runs if name in OURS else 1):
        result = subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment
        )
        peaks.append(float(result.stdout.split()[-1]))
    return float(np.median(peaks))


def _peak_above_model(name: str, tokens: int) -> float:
    """Peak resident memory of one run, above that after a run on a few tokens, MiB."""
    torch.set_num_threads(1)
    (run, model) = _runners([name])[name]
    ids = torch.randint(0, 1000, (1, tokens), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        run(model, ids[:, :16])
        before = reset_peak()
        run(model, ids)
    return (peak() - before) / MIB


def reset_peak() -> int:
    """Make the system forget the peak so far; what is resident now, bytes."""
    with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123
        file.write("5")
    return _status("VmRSS")


def peak() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    with open("/proc/self/status") as file:  # noqa: PTH123
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


if __name__ == "__main__":
    main()
