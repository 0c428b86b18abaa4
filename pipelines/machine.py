"""What of this machine a run may use: cores, threads, memory."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from cgankd.config import ConfigError, DataConfig
from cgankd.data.store_stream import MemoryBudget


def available_cores() -> int:
    """Processor cores this process may use: its affinity, and the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup, or "max"
        return cores


def set_threads() -> None:
    """Let torch use CGANKD_THREADS threads, or no more than the cores that are there. Raises ConfigError."""
    text = os.environ.get("CGANKD_THREADS", "")
    if text and not (text.isdigit() and int(text) >= 1):
        raise ConfigError(f"the environment variable CGANKD_THREADS must be a whole number from 1, but is {text!r}")
    torch.set_num_threads(int(text) if text else min(torch.get_num_threads(), available_cores()))


def free_memory_gb() -> float | None:
    """Memory free for new programs; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 1e6
    except OSError:
        pass
    return None


def total_memory_bytes() -> int:
    """Memory of this machine, or of its container where that has less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no cgroup, or "max"
        return total


def image_memory(cfg: DataConfig, processes: int = 1) -> MemoryBudget:
    """The share of data.memory_budget_gb that one of several processes may fill with images at rest."""
    gb = cfg.memory_budget_gb
    return MemoryBudget((total_memory_bytes() / 4 if gb is None else gb * 1e9) / processes)
