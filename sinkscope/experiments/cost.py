"""What transcribing costs: ``python -m sinkscope.experiments.cost MODEL INPUT...``.

For sound, picture and both: the real-time factor (seconds of computing for a second of clip), the
memory with the model loaded and at its peak, and the share of reading the file, encoder, projector,
the LLM's prefill and its decoding steps. Reading is that of the whole file, with its face, whatever
the modality. Medians over repeated runs; memory in a process of its own, the process's on a CPU and
the tensors' on a GPU.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from sinkscope.avsr.decoding import modalities_of
from sinkscope.avsr.media import read_clip
from sinkscope.avsr.model import LlamaAvsr
from sinkscope.subjects.subject import load

__all__ = ["cost_of", "timing"]

PARTS = ("reading", "encoder", "projector", "prefill", "decoding", "rest")
MIB = 2**20


def cost_of(model: LlamaAvsr, paths: Sequence[Path], modality: str, *, rounds: int) -> dict:
    """Real-time factor and shares of the parts, medians over rounds.

    Args:
        model: what transcribes.
        paths: media files.
        modality: what is read of them.
        rounds: how often; one round more comes first and does not count.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        spent, seconds = _one_round(model, paths, modality)
        if number:
            found["real_time_factor"].append(sum(spent.values()) / seconds)
            for part in PARTS:
                found[part].append(spent[part] / sum(spent.values()))
    return {name: round(statistics.median(values), 4) for name, values in found.items()}


def _one_round(
    model: LlamaAvsr, paths: Sequence[Path], modality: str
) -> tuple[dict[str, float], float]:
    """Seconds spent on each part, and seconds of clips."""
    spent: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    length = 0.0
    for path in paths:
        start = time.perf_counter()
        clip = read_clip(path)
        spent["reading"] += time.perf_counter() - start
        length += clip.duration
        with timing(model) as parts:
            start = time.perf_counter()
            model.transcribe([clip], modality=modality)  # pyright: ignore[reportArgumentType]
            whole = time.perf_counter() - start
        for name, seconds in parts.items():
            spent[name] += seconds
        spent["rest"] += whole - sum(parts.values())
    return spent, length


@contextmanager
def timing(model: LlamaAvsr) -> Iterator[dict[str, float]]:
    """While open, the seconds that the model's parts take are added up.

    The LLM's first forward after each opening is its prefill, the others are decoding steps.
    """
    spent: dict[str, float] = defaultdict(float)
    began: list[float] = []
    forwards = 0

    def begin(*_: Any) -> None:
        _wait(model)
        began.append(time.perf_counter())

    def ends(name: str) -> Any:
        def end(*_: Any) -> None:
            nonlocal forwards
            _wait(model)
            part = name
            if name == "llm":
                part = "decoding" if forwards else "prefill"
                forwards += 1
            spent[part] += time.perf_counter() - began.pop()

        return end

    handles = []
    for name, module in _parts(model):
        handles += [
            module.register_forward_pre_hook(begin),
            module.register_forward_hook(ends(name)),
        ]
    encoders = [module for name, module in _parts(model) if name == "encoder"]
    for encoder in encoders:
        vars(encoder)["prepare"] = _timed(encoder.prepare, begin, ends("encoder"))
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()
        for encoder in encoders:
            del vars(encoder)["prepare"]


def _timed(function: Any, begin: Callable[[], None], end: Callable[[], None]) -> Any:
    def timed(*arguments: Any, **options: Any) -> Any:
        begin()
        try:
            return function(*arguments, **options)
        finally:
            end()

    return timed


def _parts(model: LlamaAvsr) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = [("llm", model.llm)]
    for kind in ("encoder", "projector"):
        parts = (getattr(model, f"{s}_{kind}") for s in ("audio", "video", "audiovisual"))
        found += [(kind, one) for part in parts if part is not None for one in _each(part)]
    return found


def _each(part: nn.Module) -> Iterable[nn.Module]:
    """The module, or those that one for each rate is."""
    return part.values() if isinstance(part, nn.ModuleDict) else (part,)


def _wait(model: LlamaAvsr) -> None:
    if next(model.parameters()).device.type == "cuda":
        torch.cuda.synchronize()


def _memory(name: str, paths: Sequence[Path], modality: str, options: dict) -> dict[str, float]:
    """MiB of this process with the model loaded, and at the peak of reading and transcribing."""
    model: Any = load(name, **options).model
    cuda = next(model.parameters()).device.type == "cuda"
    loaded = torch.cuda.memory_allocated() if cuda else psutil.Process().memory_info().rss
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        _forget_peak()
    for path in paths:
        model.transcribe([read_clip(path)], modality=modality)
    peak = torch.cuda.max_memory_allocated() if cuda else _peak_rss()
    return {"loaded_mib": round(loaded / MIB, 1), "peak_mib": round(peak / MIB, 1)}


def _forget_peak() -> None:
    """Let Linux count the peak from here on; loading may have needed more than transcribing."""
    counter = Path("/proc/self/clear_refs")
    if counter.exists():
        counter.write_text("5")


def _peak_rss() -> int:
    """The process's peak in bytes, as Linux counts it; elsewhere what it holds now."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return psutil.Process().memory_info().rss


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("inputs", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("-o", "--output", type=Path, help="a JSON file")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    options = {"device": given.device, "dtype": given.dtype}
    if given.memory_of:
        print(json.dumps(_memory(given.model, given.inputs, given.memory_of, options)))
        return
    model: Any = load(given.model, **options).model
    found = {}
    for modality in modalities_of(model.config):
        found[modality] = cost_of(model, given.inputs, modality, rounds=given.rounds)
        found[modality] |= _in_a_process(given, modality)
    _print(found)
    if given.output:
        given.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _in_a_process(given: argparse.Namespace, modality: str) -> dict[str, float]:
    words = [sys.executable, "-m", __spec__.name if __spec__ else __name__, given.model]
    words += [*map(str, given.inputs), "--memory-of", modality]
    for option in ("device", "dtype"):
        value = getattr(given, option)
        words += [f"--{option}", value] if value else []
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _print(found: dict[str, dict[str, float]]) -> None:
    print(f"| modality | real-time factor | loaded MiB | peak MiB | {' | '.join(PARTS)} |")
    print("|---" * (4 + len(PARTS)) + "|")
    for modality, cost in found.items():
        shares = " | ".join(f"{cost[part]:.0%}" for part in PARTS)
        memory = f"{cost['loaded_mib']:.0f} | {cost['peak_mib']:.0f}"
        print(f"| {modality} | {cost['real_time_factor']:.3f} | {memory} | {shares} |")


if __name__ == "__main__":
    main()
