"""Whether other work holds the cores that a run computes on: said once, with what would be faster, and never acted upon.

Threads that wait for each other lose far more to other work than its share of the cores; but how many there are moves the last
bits of numbers, so that it is the user who chooses.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

FIRST_S, NEXT_S = 5.0, 30.0
"""Seconds over which a run is looked at: first, and again and again until something was said."""
HELD_SHARE = 0.15
"""Share of the time that threads want a core and have none, from which it is said."""
BUSY = (0, 1, 2, 5, 6, 7)
"""Columns of a processor in /proc/stat that count as at work: user, nice, system, two kinds of interrupts, and taken by the
host of a virtual machine."""


@dataclass(frozen=True)
class Sample:
    """One look: when, processor time and waiting time of this run by process and thread, and how busy its cores were; seconds."""

    at_s: float
    ran_s: Mapping[tuple[int, int], float]
    waited_s: Mapping[tuple[int, int], float]
    busy_s: float | None
    """Of all cores of this process, by whomever; None where the system does not say."""
    throttled_s: float = 0.0
    """For which its control group held it back."""


def allowed_cores() -> list[int]:
    """Numbers of the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def sample(root: Path = Path("/")) -> Sample:
    """Look at this process, its children and its cores now."""
    ran: dict[tuple[int, int], float] = {}
    waited: dict[tuple[int, int], float] = {}
    for pid in [os.getpid(), *children(root)]:
        for task in _names(root / f"proc/{pid}/task"):
            try:
                run_ns, wait_ns, _ = (root / f"proc/{pid}/task/{task}/schedstat").read_text().split()
            except (OSError, ValueError):  # the thread is gone, or the system keeps no such record
                continue
            ran[pid, int(task)], waited[pid, int(task)] = int(run_ns) / 1e9, int(wait_ns) / 1e9
    return Sample(time.monotonic(), ran, waited, busy_seconds(root), throttled_seconds(root))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def children(root: Path = Path("/")) -> list[int]:
    """Processes that this one started and that are there."""
    found: list[int] = []
    for task in _names(root / f"proc/{os.getpid()}/task"):
        try:
            found += map(int, (root / f"proc/{os.getpid()}/task/{task}/children").read_text().split())
        except (OSError, ValueError):
            continue
    return found


def busy_seconds(root: Path = Path("/")) -> float | None:
    """Seconds since boot that the cores of this process were at work; None where the system does not say."""
    mine, total = {f"cpu{number}" for number in allowed_cores()}, 0.0
    try:
        for line in (root / "proc/stat").read_text().splitlines():
            name, *columns = line.split()
            if name in mine:
                total += sum(int(columns[place]) for place in BUSY if place < len(columns))
        return total / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None


def throttled_seconds(root: Path = Path("/")) -> float:
    """Seconds for which a quota of processor time held this program's control group back."""
    for path, key, unit in (("cpu.stat", "throttled_usec", 1e6), ("cpu/cpu.stat", "throttled_time", 1e9)):
        try:
            found = dict(line.split() for line in (root / "sys/fs/cgroup" / path).read_text().splitlines())
            return int(found[key]) / unit
        except (OSError, ValueError, KeyError):
            continue
    return 0.0


@dataclass(frozen=True)
class Held:
    """What two looks show: the share of the time that threads waited for a core (0 to 1), cores that other work used, cores that
    this run used, and the share of the time that a quota held it back."""

    waiting: float
    others: float
    own: float
    throttled: float
    workers: int = 0
    """Processes that this run started and that computed; none = it computes itself."""

    @property
    def slower(self) -> float:
        """How many times as long it takes, at least."""
        return 1 / (1 - min(0.99, max(self.waiting, self.throttled)))


def between(first: Sample, last: Sample) -> Held:
    """What happened between two looks: waiting of the threads that both saw, work also of those that began in between."""
    seconds = max(1e-6, last.at_s - first.at_s)
    both = first.ran_s.keys() & last.ran_s.keys()
    ran = sum(last.ran_s[key] - first.ran_s[key] for key in both)
    waited = sum(last.waited_s[key] - first.waited_s[key] for key in both)
    busy = 0.0 if first.busy_s is None or last.busy_s is None else last.busy_s - first.busy_s
    own = ran + sum(min(seconds, last.ran_s[key]) for key in last.ran_s.keys() - both)
    return Held(
        waited / (ran + waited) if ran + waited > 0 else 0.0,
        max(0.0, (busy - own) / seconds),
        own / seconds,
        min(1.0, max(0.0, last.throttled_s - first.throttled_s) / seconds),
        len({key[0] for key in both if last.ran_s[key] - first.ran_s[key] > 0.05 * seconds} - {os.getpid()}),
    )


def free_cores(held: Held, cores: int) -> int:
    """Cores that other work leaves to this run, at least one."""
    return max(1, min(cores, round(cores - held.others)))


def in_words(held: Held, threads: int, cores: int) -> str | None:
    """The line for the user; None where the cores are this run's."""
    if max(held.waiting, held.throttled) < HELD_SHARE:
        return None
    if held.throttled < HELD_SHARE and held.own > cores - 0.1:
        return None  # its own threads wait for each other
    why = f"threads of this run wait {100 * held.waiting:.0f} % of their time for a core"
    if held.throttled > held.waiting:
        why = f"a quota of processor time (container) holds this run back {100 * held.throttled:.0f} % of the time"
    free, count = free_cores(held, cores), held.workers or threads
    text = f"the cores are held: {why}, so that it takes at least {held.slower:.1f} times as long; other work uses"
    text += f" {held.others:.1f} of {cores} cores"
    if count <= free:
        return f"{text}; end it, or wait for it"
    if held.workers:
        return f"{text}: student.workers={free} would do as much, with less memory"
    return (
        f"{text}: CGANKD_THREADS={free} would be faster than {threads} (not changed here, as the last bits follow it)"
    )


class Watch:
    """Looks at a run while it reports, and has one line to say about it."""

    def __init__(self, look: Callable[[], Sample] = sample) -> None:
        self.look, self.first, self.wait_s, self.said = look, look(), FIRST_S, False

    def line(self, threads: int, cores: int) -> str | None:
        """The line, once, when the cores were found held; a look costs about a millisecond and is taken seldom."""
        if self.said or time.monotonic() - self.first.at_s < self.wait_s:
            return None
        last = self.look()
        held, self.first, self.wait_s = between(self.first, last), last, NEXT_S
        text = in_words(held, threads, cores)
        self.said = text is not None
        return text
