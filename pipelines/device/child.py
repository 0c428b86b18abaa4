"""A process that only runs one file: python -m pipelines.device.child KIND FILE IMAGES.npy ANSWERS.npy FACTS.json REPEATS.

It imports numpy and the runtime, so that its peak memory is theirs and the file's.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

import numpy as np

from pipelines.device import runtimes


def memory() -> dict[str, int]:
    """Bytes in memory now and at the peak; empty where the system does not tell (it is Linux's /proc)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return {}
    text = status.read_text()
    found = {name: re.search(rf"{key}:\s+(\d+) kB", text) for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}
    return {name: 1024 * int(match[1]) for name, match in found.items() if match}


def main(kind: str, path: str, images: str, answers: str, facts: str, repeats: str) -> None:
    """Answers to all images, then the median time of one."""
    if hasattr(os, "sched_setaffinity"):  # ExecuTorch's pool of threads cannot be told its size from here
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    data, taken = Path(path).read_bytes(), np.load(images, mmap_mode="r")
    run, micro = runtimes.run_micro(data) if kind == "micro" else (runtimes.opened(kind, data), None)
    before = memory()
    parts = [run(np.array(taken[at : at + 64])) for at in range(0, len(taken), 64)]
    after = memory()
    one, times = np.array(taken[:1]), []
    for turn in range(-(int(repeats) // 10) - 1, int(repeats)):
        start_ns = time.perf_counter_ns()
        run(one)
        if turn >= 0:
            times.append(time.perf_counter_ns() - start_ns)
    np.save(answers, np.concatenate(parts))
    said = {"latency_ms": sorted(times)[len(times) // 2] / 1e6, "peak_bytes": after.get("peak")}
    said["opened_bytes"] = before.get("now")
    Path(facts).write_text(json.dumps(said))
    if micro is not None:
        micro.print_allocations()


if __name__ == "__main__":
    main(*sys.argv[1:])
