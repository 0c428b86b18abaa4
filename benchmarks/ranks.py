"""Losses and memory of 1, 2 and 4 ranks beside each other, on the trainings of fifty steps in tests/fit/ranked.py.

`python -m benchmarks.ranks` prints, for each training and number of ranks, the largest relative difference of any logged number
from that of one process, plain and as the tests take it, relative to numbers above 1, and the peak memory of a rank.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing

from tests.fit.ranked import JOBS

NAMES = {"gan": "GAN", "ccgan": "CcGAN", "features": "features", "ratio": "ratio", "student, kd": "student"}
SIZES = (1, 2, 4)


def on_rank(rank: int, size: int, folder: str) -> None:
    """Run the trainings as one of several ranks; rank 0 keeps what it logged."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=size)
    for name in NAMES:
        start_s, used_s = time.perf_counter(), time.process_time()
        values = JOBS[name]()["values"]
        spent = time.perf_counter() - start_s, time.process_time() - used_s
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        torch.save((values, spent, peak_mb), Path(folder) / f"{name}-{rank}.pt")
    if size > 1:
        dist.destroy_process_group()


def difference(one: dict[str, list[float]], many: dict[str, list[float]], least: float) -> float:
    """The largest difference of any logged number, relative to what is above `least`."""
    assert one.keys() == many.keys()
    pairs = [pair for name in one for pair in zip(one[name], many[name], strict=True)]
    return max(abs(a - b) / max(abs(a), least) for a, b in pairs)


def main() -> None:
    """Print a row a training and number of ranks."""
    alone = dict[str, dict[str, list[float]]]()
    for size in map(int, sys.argv[1:]) if len(sys.argv) > 1 else SIZES:
        with tempfile.TemporaryDirectory() as folder:
            start: Any = multiprocessing
            start.spawn(on_rank, (size, folder), size)
            for name, title in NAMES.items():
                ranks = [torch.load(Path(folder) / f"{name}-{rank}.pt") for rank in range(size)]
                alone.setdefault(name, ranks[0][0])
                wall_s, used_s = ranks[0][1]
                print(
                    f"{title}, {size} ranks: {difference(alone[name], ranks[0][0], 1e-12):.1e},"
                    f" {difference(alone[name], ranks[0][0], 1.0):.1e} relative to numbers above 1,"
                    f" {max(rank[2] for rank in ranks):.0f} MB a rank, {wall_s:.1f} s, {used_s:.1f} processor seconds",
                    flush=True,
                )


if __name__ == "__main__":
    main()
