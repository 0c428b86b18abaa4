"""One command of a run and the SIGKILL that ends it: whom it hits, and at which moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from tests.chaos.state import environment, processes, processor_s, under_way, words_of

TARGETS = ("group", "parent", "stage", "worker")
"""All processes, the command alone, what DVC runs alone, one of the workers."""
MOMENTS = ("any", "work", "write")
"""Any time, a time at which a stage is at work, and within a write: when a temporary file is there."""
LOOK_S = 0.002
WORKER = "multiprocessing.spawn"


@dataclass(frozen=True)
class Plan:
    """A kill to come: whom, at what sort of moment, after how many seconds or temporary files."""

    target: str
    moment: str
    after_s: float
    nth: int

    @classmethod
    def drawn(cls, dice: random.Random, longest_s: float) -> Plan:
        """A plan by the dice; every second one hits the whole group."""
        target = "group" if dice.random() < 0.5 else dice.choice(TARGETS[1:])
        moment = dice.choice(MOMENTS) if target != "worker" else dice.choice(MOMENTS[1:])
        return cls(target, moment, dice.uniform(0.0, longest_s), dice.randint(1, 12))


@dataclass(frozen=True)
class Outcome:
    """What became of a command: its exit code where it ended by itself, else the time of the kill; and what it said."""

    code: int | None
    killed_s: float | None
    hit: str
    text: str
    begun_s: float
    """When the command began, seconds since the epoch."""
    busy: float = 1.0
    """Processor seconds of the run for each second by the clock, until the kill."""


class Forked:
    """A command in a child of this process, which has its code loaded: what is killed is at work and not at its imports."""

    def __init__(self, command: list[str], folder: Path, log: Path) -> None:
        self.args = command
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._be(command, folder, log)

    def poll(self) -> int | None:
        """The exit code, minus the signal where one ended it; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, limit_s: float | None = None) -> int:
        """Wait for the end. Raises TimeoutExpired."""
        until_s = None if limit_s is None else time.monotonic() + limit_s
        while (code := self.poll()) is None:
            if until_s is not None and time.monotonic() > until_s:
                raise subprocess.TimeoutExpired(self.args, limit_s or 0.0)
            time.sleep(0.02)
        return code

    @staticmethod
    def _be(command: list[str], folder: Path, log: Path) -> NoReturn:
        code = 70
        try:
            os.setsid()
            os.chdir(folder)
            os.environ.update(environment(folder))
            out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            for number in (1, 2):
                os.dup2(out, number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            from pipelines.commands.app import main

            sys.argv = command
            sys.modules["__main__"] = ModuleType("__main__")  # that of this program is none that workers should load
            try:
                main(command[1:])
                code = 0
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)


def start(command: list[str], folder: Path, log: Path) -> subprocess.Popen[bytes] | Forked:
    """The command in a session of its own; what it says goes to a file."""
    if command[0] == "cgankd":
        return Forked(command, folder, log)
    with log.open("ab") as out:
        return subprocess.Popen(
            command, cwd=folder, env=environment(folder), stdout=out, stderr=out, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip


def half_written(folder: Path) -> set[str]:
    """Temporary files at this moment, in the folders where stages write."""
    found, waiting = set(), [folder / "artifacts", folder / "metrics", folder / "plots"]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if entry.name not in ("cache", "logs"):
                            waiting.append(Path(entry.path))
                    elif entry.name.endswith(".tmp"):
                        found.add(entry.path)
        except OSError:
            continue
    return found


def victims(plan: Plan, process: subprocess.Popen[bytes] | Forked, folder: Path) -> list[int]:
    """The processes to kill; none where the plan wants one that is not there yet."""
    if plan.target == "parent":
        return [process.pid]
    there = processes(folder)
    if plan.target == "group":
        return [*there]
    words = {pid: words_of(pid) for pid in there if pid != process.pid}
    if plan.target == "worker":
        return [pid for pid, said in words.items() if WORKER in said and "resource_tracker" not in said][:1]
    stages = [
        pid for pid, said in words.items() if "cgankd" in said and WORKER not in said and "resource_tracker" not in said
    ]
    return stages[-1:] or [process.pid]


def run_until(plan: Plan | None, command: list[str], folder: Path, log: Path, limit_s: float) -> Outcome:
    """Run a command until it ends or the plan's moment comes; without a plan it goes to its end."""
    before = log.stat().st_size if log.exists() else 0
    process = start(command, folder, log)
    begin_s, work_s, seen, count = time.monotonic(), None, set[str](), 0
    hit: list[int] = []
    killed_s, busy, begun_s = None, 1.0, time.time()
    while process.poll() is None and not hit:
        now_s = time.monotonic()
        if now_s - begin_s > limit_s:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"{' '.join(command)} took longer than {limit_s:.0f} s:\n{tail(log, before)}")
        due = False
        if plan is None:
            time.sleep(0.1)
        elif plan.moment == "any":
            time.sleep(0.01)
            due = now_s - begin_s >= plan.after_s
        elif plan.moment == "work":
            time.sleep(0.02)
            if work_s is None and under_way(folder) is not None:
                work_s = now_s
            due = work_s is not None and now_s - work_s >= plan.after_s / 3
        else:
            time.sleep(LOOK_S)
            there = half_written(folder)
            count += len(there - seen)
            seen = there
            due = count >= plan.nth and bool(there)
        if due and plan is not None:
            hit = victims(plan, process, folder)
            busy = processor_s(processes(folder)) / max(0.01, time.monotonic() - begin_s)
            killed_s = time.time()
            for pid in hit:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
    who = "" if plan is None or not hit else plan.target
    if hit and process.pid not in hit:
        # The command itself sees that something of it is gone, and ends or goes on.
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"{' '.join(command)} hangs after the kill of a {who}:\n{tail(log, before)}") from None
    process.wait()
    return Outcome(
        None if process.returncode == -signal.SIGKILL else process.returncode,
        killed_s,
        who,
        tail(log, before),
        begun_s,
        busy,
    )


def tail(log: Path, start_at: int) -> str:
    """What was said from a place on."""
    with log.open("rb") as file:
        file.seek(start_at)
        return file.read().decode(errors="replace")
