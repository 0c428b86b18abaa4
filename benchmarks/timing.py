"""The runner of all benchmarks: warm-up, repetitions, share of the measured peak, agreement of the results.

Each side is timed in a process of its own: the plain one with the default allocator, the fast one with the settings a
stage gives itself (pipelines/malloc.py). With --quick both run in this process, on sizes that show structure, not speed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from cgankd.fit.device import Plan, is_bf16, this_machine
from cgankd.types import LogFn
from pipelines.machine import set_threads
from pipelines.malloc import SETTINGS

Side = Literal["plain", "fast"]
Times = Callable[[int, int], list[float]]
"""(warm-up, repetitions) -> seconds of each repetition."""
PEAK_SIZE = 2048
"""Rows and columns of the matrix product that stands for the machine's peak."""


CHILD_LIMIT_S = 600
"""Longest time of one side of one benchmark."""


class Failed(RuntimeError):
    """A side ended without a result; the message is the last line of its errors."""


@dataclass(frozen=True)
class Work:
    """One way to do a piece of work.

    A repetition makes `images` images with `flop` floating-point operations in its networks (0 = not counted; a function
    where they are known only after a repetition) and takes `extra_s` more than measured: its share of what is done once
    for many. `note` says what else to know.
    """

    times: Times
    images: float
    precision: str
    flop: float | Callable[[], float] = 0.0
    extra_s: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Agreement:
    """How far the fast results are from the plain ones, and how far they may be."""

    what: str
    value: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.value <= self.tolerance


@dataclass(frozen=True)
class Case:
    """A row of the table: `build(side, quick)` and `agree(quick)`; `target` is the least ratio of images a second."""

    name: str
    title: str
    target: float | None
    build: Callable[[Side, bool], Work]
    agree: Callable[[bool], list[Agreement]]
    warmup: dict[str, int] = field(default_factory=lambda: {"plain": 1, "fast": 3})
    repeats: dict[str, int] = field(default_factory=lambda: {"plain": 3, "fast": 10})


def fast_plan(quick: bool) -> Plan:
    """The plan of the fast side: the device there is, networks compiled unless it is a quick run."""
    machine = this_machine()
    return Plan(machine.device, "on" if machine.compiler and not quick else "off")


def repeated(step: Callable[[], object]) -> Times:
    """Times of a function called over and over."""

    def times(warmup: int, repeats: int) -> list[float]:
        found = []
        for _ in range(warmup + repeats):
            start = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            found.append(time.perf_counter() - start)
        return found[warmup:]

    return times


def of_loop(loop: Callable[[int, LogFn], object]) -> Times:
    """Times between the log calls of a training loop that logs each step; its last step, which may evaluate, is left out."""

    def times(warmup: int, repeats: int) -> list[float]:
        stamps = [time.perf_counter()]
        loop(warmup + repeats + 1, lambda step, values, total: stamps.append(time.perf_counter()))
        spans = [b - a for a, b in zip(stamps, stamps[1:], strict=False)]
        return spans[warmup : warmup + repeats]

    return times


def relative_error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|, Euclidean norms over all elements."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def peak_gflops(precision: str) -> float:
    """GFLOP/s of a 2048^3 matrix product into memory that is there, the best of five, on the device the networks run on."""
    device = this_machine().device
    kind = torch.bfloat16 if is_bf16(precision, device) else torch.float32
    a, b = torch.randn(2, PEAK_SIZE, PEAK_SIZE, device=device).to(kind)
    out = torch.empty_like(a)
    return 2 * PEAK_SIZE**3 / min(repeated(lambda: torch.mm(a, b, out=out))(2, 5)) / 1e9


def measure(case: Case, side: Side, quick: bool) -> dict[str, Any]:
    """Time one side in this process."""
    work = case.build(side, quick)
    warmup, repeats = (1, 2) if quick else (case.warmup[side], case.repeats[side])
    seconds = [value + work.extra_s for value in work.times(warmup, repeats)]
    median = statistics.median(seconds)
    found: dict[str, Any] = {
        "min_s": min(seconds), "median_s": median, "max_s": max(seconds), "repeats": len(seconds),
        "images_per_s": work.images / median, "precision": "bf16" if is_bf16(work.precision) else "fp32",
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "note": work.note,
    }  # fmt: skip
    flop = work.flop() if callable(work.flop) else work.flop
    if flop and not quick:
        found["peak_gflops"] = peak_gflops(work.precision)
        found["share_of_peak"] = flop / median / 1e9 / found["peak_gflops"]
    return found


def child(name: str, words: list[str], *, large_blocks: bool) -> Any:
    """What a benchmark prints as JSON in a fresh process, with or without the allocator's settings."""
    environment = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    environment |= SETTINGS if large_blocks else {}
    command = [sys.executable, "-m", f"benchmarks.{name}", *words]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=CHILD_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise Failed(f"{name} {' '.join(words)} took more than {CHILD_LIMIT_S} s") from None
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise Failed(f"{name} {' '.join(words)}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(case: Case, quick: bool) -> dict[str, Any]:
    """Both sides, the ratio of their images a second, and the agreement of their results."""
    start = time.perf_counter()
    if quick:
        plain, fast = measure(case, "plain", True), measure_and_agree(case, True)
    else:
        plain = child(case.name, ["--part", "plain"], large_blocks=False)
        fast = child(case.name, ["--part", "fast"], large_blocks=True)
    agreements = fast.pop("agreement")
    ratio = fast["images_per_s"] / plain["images_per_s"]
    found = {"name": case.name, "title": case.title, "quick": quick, "plain": plain, "fast": fast, "ratio": ratio}
    return found | {"target": case.target, "agreement": agreements, "took_s": time.perf_counter() - start}


def measure_and_agree(case: Case, quick: bool) -> dict[str, Any]:
    """Time the fast side, then compare its results with the plain ones: in one process, which compiles once."""
    found = measure(case, "fast", quick)
    return found | {"agreement": [asdict(a) | {"holds": a.holds} for a in case.agree(quick)]}


def line(found: dict[str, Any]) -> str:
    """A result, or a failure, as one row of the Markdown table."""
    if "failed" in found:
        reason = found["failed"].replace("|", "/").replace("\n", " ")
        return f"| {found['title']} | {'- | ' * 7}FAILED: {reason} | - |"
    speeds = [f"{found[side]['images_per_s']:.4g}" for side in ("plain", "fast")]
    spans = [
        f"{found[side]['min_s']:.3g} / {found[side]['median_s']:.3g} / {found[side]['max_s']:.3g}"
        for side in ("plain", "fast")
    ]
    share = found["fast"].get("share_of_peak")
    target = f"{found['target']:.0f}" if found["target"] else "-"
    held = "; ".join(
        f"{a['what']} {a['value']:.2g} (at most {a['tolerance']:.2g}{'' if a['holds'] else ', MISSED'})"
        for a in found["agreement"]
    )
    cells = [found["title"], *speeds, *spans, f"{found['ratio']:.1f}", target, f"{100 * share:.0f} %" if share else "-"]
    notes = "; ".join(text for text in dict.fromkeys((found["plain"]["note"], found["fast"]["note"])) if text)
    return "| " + " | ".join([*cells, held, notes or "-"]) + " |"


HEADER = (
    "| work | plain, a second | fast, a second | plain s, min / median / max | fast s, min / median / max | ratio |"
    " target | share of peak | agreement | note |\n|---|---|---|---|---|---|---|---|---|---|"
)


def main(case: Case) -> None:
    """The command line of one benchmark."""
    parser = argparse.ArgumentParser(description=case.title)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, not how fast")
    parser.add_argument("--part", choices=("plain", "fast"), help="one side alone, as JSON")
    options = parser.parse_args()
    set_threads()
    if options.part == "fast":
        print(json.dumps(measure_and_agree(case, options.quick)))
    elif options.part:
        print(json.dumps(measure(case, options.part, options.quick)))
    else:
        print(f"{HEADER}\n{line(compare(case, options.quick))}")
