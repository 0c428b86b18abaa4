"""The runner of all benchmarks: warm-up, repetitions by turns of both sides, agreement of the results.

Each side is timed in a process of its own (benchmarks/sides.py), in `rounds` turns of both, so that a slow minute of the
machine meets both. With --quick both run in this process, on sizes that show structure, not speed.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor

from benchmarks.peak import finish, peak_gflops, peak_name, synchronise
from benchmarks.place import place
from benchmarks.sides import Waiting, serve
from cgankd.fit.device import Plan, is_bf16, this_machine
from cgankd.types import LogFn
from pipelines.runtime.machine import set_threads

Side = Literal["plain", "fast"]
Times = Callable[[int, int], list[float]]
"""(warm-up, repetitions) -> seconds of each repetition."""


@dataclass(frozen=True)
class Work:
    """One way to do a piece of work.

    A repetition makes `images` images with `flop` floating-point operations in its networks (0 = not counted; a function
    where they are known only after a repetition) and takes `extra_s` more than measured: its share of what is done once
    for many. `note` says what else to know. Both sides run on the device that `place` gives.
    """

    times: Times
    images: float
    precision: str
    flop: float | Callable[[], float] = 0.0
    extra_s: float = 0.0
    note: str | Callable[[], str] = ""

    @property
    def device(self) -> str:
        return place()


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
    """A row of the table: `build(side, quick)` and `agree(quick)`; `target` is the least ratio of images a second.

    Repetitions are dealt to `rounds` turns; a loop that is built anew in each turn (a GAN's training) has one.
    """

    name: str
    title: str
    target: float | None
    build: Callable[[Side, bool], Work]
    agree: Callable[[bool], list[Agreement]]
    warmup: dict[str, int] = field(default_factory=lambda: {"plain": 1, "fast": 3})
    repeats: dict[str, int] = field(default_factory=lambda: {"plain": 3, "fast": 10})
    rounds: int = 3


def fast_plan(quick: bool) -> Plan:
    """The plan of the fast side: the device there is, networks compiled unless it is a quick run."""
    return Plan(place(), "on" if this_machine().compiler and not quick else "off")


def repeated(step: Callable[[], object]) -> Times:
    """Times of a function called over and over."""

    def times(warmup: int, repeats: int) -> list[float]:
        found = []
        for _ in range(warmup + repeats):
            start = time.perf_counter()
            step()
            synchronise()
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


def measured(work: Work, seconds: list[float], peaks: list[float]) -> dict[str, Any]:
    """The record of a side: its times, what they come to, and the peaks measured before and after them."""
    seconds = [value + work.extra_s for value in seconds]
    median = statistics.median(seconds)
    return {
        "min_s": min(seconds), "median_s": median, "max_s": max(seconds), "repeats": len(seconds),
        "images_per_s": work.images / median, "precision": "bf16" if is_bf16(work.precision, work.device) else "fp32",
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_of": peak_name(work.precision, work.device), "peaks": peaks,
        "flop": work.flop() if callable(work.flop) else work.flop,
        "note": work.note() if callable(work.note) else work.note,
    }  # fmt: skip


class Turns:
    """One side in its process: built at the first request, timed in turns, and the record of all of them at the end."""

    def __init__(self, case: Case, side: Side, quick: bool = False) -> None:
        self.case, self.side, self.quick = case, side, quick
        self.work: Work | None = None
        self.seconds: list[float] = []
        self.peaks: list[float] = []

    def answer(self, do: str, repeats: int = 0) -> Any:
        """`build`, `time` so many repetitions, take the `peak`, or give the `record`; of the fast side with the agreement."""
        if self.work is None:
            self.work = self.case.build(self.side, self.quick)
        if do == "time":
            self.seconds += self.work.times(1 if self.quick else self.case.warmup[self.side], repeats)
        if do == "peak":
            self.peaks.append(peak_gflops(self.work.precision, self.work.device))
        if do != "record":
            return None
        found = measured(self.work, self.seconds, self.peaks)
        if self.side == "plain":
            return found
        return found | {"agreement": [asdict(a) | {"holds": a.holds} for a in self.case.agree(self.quick)]}


def dealt(repeats: int, rounds: int) -> list[int]:
    """So many repetitions in so many turns, as evenly as they go."""
    return [repeats // rounds + (turn < repeats % rounds) for turn in range(min(rounds, repeats))]


Ask = Callable[..., Any]
"""A request to a side: what to do, and its options by name."""


def by_turns(case: Case, plain: Ask, fast: Ask) -> tuple[dict[str, Any], dict[str, Any]]:
    """The records of both sides, timed by turns."""
    sides = {"plain": plain, "fast": fast}
    for do in ("build", "peak"):
        for ask in sides.values():
            ask(do=do)
    shares = {side: dealt(case.repeats[side], case.rounds) for side in sides}
    for turn in range(case.rounds):
        for side, ask in sides.items():
            if turn < len(shares[side]):
                ask(do="time", repeats=shares[side][turn])
    for ask in sides.values():
        ask(do="peak")
    return plain(do="record"), fast(do="record")


def compare(case: Case, quick: bool) -> dict[str, Any]:
    """Both sides, the ratio of their images a second, and the agreement of their results."""
    start = time.perf_counter()
    if quick:
        turns = [Turns(case, side, True) for side in ("plain", "fast")]  # type: ignore[arg-type]
        for one in turns:
            one.answer("time", 2)
        plain, fast = (one.answer("record") for one in turns)
    else:
        with Waiting(case.name, "plain") as one, Waiting(case.name, "fast") as other:
            plain, fast = by_turns(case, one.ask, other.ask)
    agreements = fast.pop("agreement")
    ratio = fast["images_per_s"] / plain["images_per_s"]
    found = {"name": case.name, "title": case.title, "quick": quick, "plain": plain, "fast": fast, "ratio": ratio}
    return found | {"target": case.target, "agreement": agreements, "took_s": time.perf_counter() - start}


def line(found: dict[str, Any]) -> str:
    """A result, or a failure, as one row of the Markdown table."""
    if "failed" in found:
        reason = found["failed"].replace("|", "/").replace("\n", " ")
        return f"| {found['title']} | {'- | ' * 8}FAILED: {reason} | - |"
    speeds = [f"{found[side]['images_per_s']:.4g}" for side in ("plain", "fast")]
    spans = [
        f"{found[side]['min_s']:.3g} / {found[side]['median_s']:.3g} / {found[side]['max_s']:.3g}"
        for side in ("plain", "fast")
    ]
    share = found["fast"].get("share_of_peak")
    targets = [f"{value:.3g}" if value else "-" for value in (found["target"], found.get("target_here"))]
    held = "; ".join(
        f"{a['what']} {a['value']:.2g} (at most {a['tolerance']:.2g}{'' if a['holds'] else ', MISSED'})"
        for a in found["agreement"]
    )
    peak = f"{100 * share:.0f} %" if share else "-"
    cells = [found["title"], *speeds, *spans, f"{found['ratio']:.1f}", *targets, peak]
    notes = "; ".join(text for text in dict.fromkeys((found["plain"]["note"], found["fast"]["note"])) if text)
    return "| " + " | ".join([*cells, held, notes or "-"]) + " |"


HEADER = (
    "| work | plain, a second | fast, a second | plain s, min / median / max | fast s, min / median / max | ratio |"
    " target | target here | share of peak | agreement | note |\n|---|---|---|---|---|---|---|---|---|---|---|"
)
LEGEND = (
    "target: of SPEED.md, on a machine with matrix units. target here, where the fast side reaches half of the peak or more: "
    "target * (bf16 peak here / fp32 peak here) / (2175 / 250). share of peak: of the largest matrix product measured in the "
    "run, operations on the padding of convolutions not counted."
)


def main(case: Case) -> None:
    """The command line of one benchmark."""
    parser = argparse.ArgumentParser(description=case.title)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, not how fast")
    parser.add_argument("--serve", choices=("plain", "fast"), help="one side alone, asked by lines of JSON")
    options = parser.parse_args()
    set_threads()
    if options.serve:
        serve(Turns(case, options.serve).answer)
        return
    found = compare(case, options.quick)
    if not options.quick:
        finish([found], {})
    print(f"{HEADER}\n{line(found)}\n\n{LEGEND}")
