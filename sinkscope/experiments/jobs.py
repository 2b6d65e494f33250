"""Jobs of an experiment in processes of one thread each. Depends on torch."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from tqdm import tqdm

__all__ = ["run_jobs"]


def run_jobs(jobs: Sequence[Any], do: Callable[[Any], None], workers: int) -> None:
    """Do every job, with a bar; the first error ends it.

    Args:
        jobs: what ``do`` is called with; both must be picklable.
        do: leaves what it makes whole or not at all.
        workers: processes.
    """
    spawn = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_alone) as pool:
        for _ in tqdm(pool.map(do, jobs), total=len(jobs), unit="job"):
            pass


def _alone() -> None:
    torch.set_num_threads(1)
