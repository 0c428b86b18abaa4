"""What of this machine a run may use: cores, threads, memory, a CUDA device, a compiler."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import torch

from cgankd.config import ConfigError, DataConfig
from cgankd.data.store.stream import MemoryBudget
from cgankd.fit.device import CompileMode, Plan, has_bf16_units, ignore, is_bf16, processor, this_machine
from pipelines.runtime import malloc, memory

ON_ONE_DEVICE = 4
"""Students side by side on one CUDA device: each is bound by its own processor core, more would only share the device."""


def available_cores() -> int:
    """Processor cores this process may use: its affinity, and the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup, or "max"
        return cores


def side_by_side(device: str) -> int:
    """How many students train at a time where student.workers says nothing."""
    return available_cores() if device == "cpu" else min(ON_ONE_DEVICE, available_cores())


def set_threads() -> None:
    """Let torch use CGANKD_THREADS threads, or no more than the cores that are there. Raises ConfigError."""
    text = os.environ.get("CGANKD_THREADS", "")
    if text and not (text.isdigit() and int(text) >= 1):
        raise ConfigError(f"the environment variable CGANKD_THREADS must be a whole number from 1, but is {text!r}")
    torch.set_num_threads(int(text) if text else min(torch.get_num_threads(), available_cores()))


def make_plan(say: Callable[[str], None] = ignore) -> Plan:
    """How this run computes: CGANKD_DEVICE (auto, cpu, cuda) and CGANKD_COMPILE (auto, off, on). Raises ConfigError."""
    device = _choice("CGANKD_DEVICE", ("auto", "cpu", "cuda"))
    machine = processor() if device == "cpu" else this_machine()  # a CUDA device that is not wanted is not touched
    if device == "cuda" and machine.device != "cuda":
        raise ConfigError("CGANKD_DEVICE is cuda, but torch sees no CUDA device; unset it")
    mode: CompileMode = "off"
    chosen = _choice("CGANKD_COMPILE", get_args(CompileMode), "auto")
    if chosen == "on" and not machine.compiler:
        raise ConfigError("CGANKD_COMPILE is on, but there is no C++ compiler; install g++ or set it to off")
    if machine.compiler and chosen != "off":
        mode = "on" if chosen == "on" else "auto"
    return Plan(machine.device if device == "auto" else device, mode, say)


def _choice(name: str, known: tuple[str, ...], default: str = "auto") -> str:
    value = os.environ.get(name, "") or default
    if value not in known:
        raise ConfigError(f"the environment variable {name} must be one of {', '.join(known)}, but is {value!r}")
    return value


def plan_facts(plan: Plan) -> dict[str, str]:
    """The plan as tags of a run: device, what precision auto means, compilation, threads, allocator."""
    machine = processor() if plan.device == "cpu" else this_machine()
    auto: Literal["bf16", "fp32"] = "bf16" if is_bf16("auto", plan.device) else "fp32"
    return {
        "compute.device": f"{plan.device} ({machine.name})",
        "compute.auto_precision": auto,
        "compute.compile": plan.compile if machine.compiler else "off (no C++ compiler)",
        "compute.threads": str(torch.get_num_threads()),
        "compute.malloc": malloc.describe(os.environ),
    }


def plan_line(plan: Plan) -> str:
    """The plan in one line for the log."""
    facts = {name.split(".")[1]: value for name, value in plan_facts(plan).items()}
    return (
        f"computing on {facts['device']}, precision auto is {facts['auto_precision']}, channels last, spectral norms folded for "
        f"sampling, compile {facts['compile']}, {facts['threads']} threads, malloc {facts['malloc']}"
    )


def arithmetic(device: str) -> str:
    """The class of precision in words: "x86_64 GenuineIntel AVX512 amx bf16"; with the CUDA device where that is used."""
    words = [platform.machine(), vendor(), torch.backends.cpu.get_cpu_capability()]
    words += [
        name for name, there in (("amx", torch.cpu._is_amx_tile_supported()), ("bf16", has_bf16_units())) if there
    ]
    if device == "cuda":
        words.append(torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA device")
    return " ".join(filter(None, words))


def vendor(root: Path = Path("/")) -> str:
    """Who made the processor, which libraries choose their loops by; empty where the system does not say."""
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def free_memory_gb() -> float | None:
    """Memory free for new programs, no more than the container leaves; None where the system does not say."""
    room = memory.shared_room()
    return None if room is None else room.left / 1e9


def total_memory_bytes() -> float:
    """Memory of this machine, or of its container where that has less."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *memory.sizes()])


def image_memory(cfg: DataConfig, processes: int = 1) -> MemoryBudget:
    """The share of data.memory_budget_gb that one of several processes may fill with images at rest."""
    gb = cfg.memory_budget_gb
    return MemoryBudget((total_memory_bytes() / 4 if gb is None else gb * 1e9) / processes)
