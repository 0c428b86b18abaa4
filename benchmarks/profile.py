"""Where the time of the fast path goes: the share of each kind of operation in a profile of torch's own profiler.

It says whether what is left of a row is arithmetic, which the machine bounds, or something that could still be mended.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections import defaultdict
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.place import place
from benchmarks.sides import child
from pipelines.runtime.machine import set_threads

TITLE = "Profile of the fast path: share of the time of the device it runs on, %"
SUBJECTS = (
    "sampling", "biggan_step", "ccgan_step", "ratio_step", "bank_build", "features", "student_plain", "student_kd_live",
)  # fmt: skip
LONG = ("ratio_step", "bank_build")
"""One repetition is long enough."""
KINDS = {
    "convolutions and matrix products": (
        "conv",
        "mm",
        "linear",
        "matmul",
        "cutlass",
        "xmma",
        "wgrad",
        "dgrad",
        "nvjet",
    ),
    "optimiser": ("adam", "sgd", "optimizer", "_foreach", "lerp"),
    "batch norms": ("batch_norm", "native_norm"),
    "compiled loops": ("compiled", "graph", "cpp_fused", "triton"),
}
"""Kind -> words in the names of its operations; the first kind that fits counts. All else is `the rest`."""


def kind_of(name: str) -> str:
    """The kind an operation belongs to."""
    low = name.lower()
    return next((kind for kind, words in KINDS.items() if any(word in low for word in words)), "the rest")


def shares(subject: str, quick: bool) -> dict[str, Any]:
    """Share of each kind in the fast side of a benchmark, and the largest operations of `the rest`."""
    case = importlib.import_module(f"benchmarks.{subject}").CASE
    work = case.build("fast", quick)
    work.times(1, 1)  # compiles
    on_device = place() == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_device else [])]
    with profile(activities=activities, acc_events=True) as found:  # one cycle; torch 2.11 warns without
        work.times(0, 1 if subject in LONG else 2)
    time_of: dict[str, float] = defaultdict(float)
    rest: dict[str, float] = defaultdict(float)
    for event in found.key_averages():
        # On a device, its kernels alone: what starts them is counted by the processor.
        spent = event.self_cpu_time_total
        if on_device:
            spent = event.self_device_time_total if event.device_type != DeviceType.CPU else 0.0
        time_of[kind_of(event.key)] += spent
        if kind_of(event.key) == "the rest":
            rest[event.key] += spent
    total = sum(time_of.values())
    largest = sorted(rest, key=rest.__getitem__, reverse=True)[:3]
    return {
        "name": subject,
        "title": case.title,
        "shares": {kind: time_of[kind] / total for kind in (*KINDS, "the rest")},
        "largest": {name: rest[name] / total for name in largest},
    }


def compare(quick: bool) -> dict[str, Any]:
    """A row for each of SUBJECTS, each in a process of its own."""
    rows = [
        shares(name, True) if quick else child("profile", ["--subject", name], large_blocks=True) for name in SUBJECTS
    ]
    return {"name": "profile", "title": TITLE, "quick": quick, "rows": rows}


def table(found: dict[str, Any]) -> str:
    """The rows as Markdown."""
    kinds = [*KINDS, "the rest"]
    lines = [f"| work | {' | '.join(kinds)} | largest of the rest |", "|---" * (len(kinds) + 2) + "|"]
    for row in found["rows"]:
        cells = " | ".join(f"{100 * row['shares'][kind]:.0f}" for kind in kinds)
        largest = ", ".join(f"{name.replace('|', '/')} {100 * share:.1f}" for name, share in row["largest"].items())
        lines.append(f"| {row['title']} | {cells} | {largest} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--subject", choices=SUBJECTS, help="one row alone, as JSON")
    options = parser.parse_args()
    set_threads()
    print(json.dumps(shares(options.subject, False)) if options.subject else table(compare(options.quick)))
