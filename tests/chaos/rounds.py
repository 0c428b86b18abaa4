"""A round: one project, killed again and again until it is done; its end is held against an undisturbed run."""

from __future__ import annotations

import json
import random
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.chaos import state
from tests.chaos.kills import Outcome, Plan, run_until
from tests.chaos.projects import Kind

STUCK = 4
"""Kills of one stage in a row, after which the next run of it is let be for as long as it needs."""
PIDS = re.compile(r"\((?:process|processes) ([\d, ]+)\) is running in")


@dataclass(frozen=True)
class Kill:
    """One kill: whom and when, the stage it met, and the seconds of work that no file had."""

    target: str
    moment: str
    stage: str
    lost_s: float
    lost_processor_s: float
    """The same in seconds of a processor, of which a busy machine gives fewer."""
    orphans: int
    """Processes that were still there some seconds after the rest was killed."""


@dataclass
class Round:
    """What became of one project."""

    kind: str
    seed: int
    kills: list[Kill] = field(default_factory=list)
    seconds: float = 0.0
    compared: int = 0
    waited: int = 0
    """Starts that waited for a process of an earlier one."""
    ended_by_hand: int = 0
    """Starts that named a process which had to be ended first."""
    faults: list[str] = field(default_factory=list)


def undisturbed(kind: Kind, folder: Path, limit_s: float = 3600) -> dict[str, str]:
    """Run a project to its end without a kill; its files."""
    outcome = run_until(None, kind.command([]), folder, folder / "chaos.log", limit_s)
    assert outcome.code == 0, outcome.text[-4000:]
    return state.files_of(folder)


def play(
    kind: Kind, folder: Path, wanted: dict[str, str], seed: int, most: int, longest_s: float, limit_s: float = 3600
) -> Round:
    """Kill the run of a fresh project up to `most` times, let it end, and compare what it left with `wanted`."""
    dice = random.Random(seed)
    found, begun, log, begin_s = Round(kind.name, seed), list[str](), folder / "chaos.log", time.monotonic()
    code: int | None = None
    while code != 0:
        met = [kill.stage for kill in found.kills[-STUCK:]]
        stuck = len(met) == STUCK and len(set(met)) == 1
        patience_s = longest_s * (4 if stuck else 1)
        plan = Plan.drawn(dice, patience_s) if len(found.kills) < most else None
        outcome = run_until(plan, kind.command(begun), folder, log, limit_s)
        code = outcome.code
        begun = stages_begun(folder) or begun
        found.waited += "waiting for another" in outcome.text
        if outcome.hit and plan is not None and outcome.killed_s is not None:
            stage, lost = state.lost_s(folder, outcome.killed_s)
            left = left_over(outcome, folder)
            found.kills.append(Kill(outcome.hit, plan.moment, stage, lost, lost * outcome.busy, left))
        elif code != 0 and not by_hand(outcome, found):
            found.faults.append(f"ended with {code} without a kill: {outcome.text[-1500:]}")
            break
        if "Traceback (most recent call last)" in outcome.text and outcome.hit != "worker":
            found.faults.append(f"traceback after a kill of {outcome.hit or 'nobody'}: {outcome.text[-3000:]}")
    late = state.ended(folder, 20)
    found.faults += [f"still there: {state.words_of(pid)}" for pid in late]
    end(late)
    files = state.files_of(folder)
    found.compared = len(wanted)
    found.faults += state.differences(files, wanted)
    found.faults += [f"half-written or unfinished: {name}" for name in state.temporary(folder)]
    found.faults += [f"still locked: {name}" for name in state.held_locks(folder)]
    found.seconds = time.monotonic() - begin_s
    return found


def stages_begun(folder: Path) -> list[str]:
    """The stages that had a run, in the order of their last beginning."""
    last: dict[str, int] = {}
    for event in state.events(folder):
        if event.get("kind") == "run" and event.get("run") == event.get("root"):
            last[str(event["stage"])] = int(event["time_ms"])
    return sorted(last, key=lambda stage: last[stage])


def left_over(outcome: Outcome, folder: Path) -> int:
    """How many processes outlive a kill that was not meant for them, by some seconds; those of a group are none."""
    patience_s = 3.0 if outcome.hit == "group" else 0.0
    return len(state.ended(folder, patience_s))


def by_hand(outcome: Outcome, found: Round) -> bool:
    """Do what the message says where another process still has the stage: end it. False where nothing of the kind is said."""
    said = PIDS.search(outcome.text)
    if outcome.code != 2 or said is None:
        return "ended" in outcome.text and outcome.code == 2
    end([int(pid) for pid in said[1].split(",")])
    found.ended_by_hand += 1
    return True


def end(pids: list[int]) -> None:
    """End processes that this run started."""
    import os
    import signal

    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def as_json(found: Round) -> str:
    """A round as one line."""
    return json.dumps(asdict(found))
