"""Draws as jobs of an engine: what each reads and writes, and what its run tells on the way."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cgankd.config import ConfigError
from pipelines.engines.executor import told_console
from pipelines.engines.local import tell
from pipelines.files.layout import STAGES
from pipelines.networks.named_files import named_files
from pipelines.repeat.one_draw import Draw, is_done, key_of, result_of, run_draw
from pipelines.repeat.own_files import own_files
from pipelines.runtime.context import Context
from pipelines.tracking.journal import Event, Tracker
from pipelines.tracking.names import child_name, evaluate_names

LINE, EVENT, RAN = "line", "event", "ran"
"""What a draw tells: a line for the user, an event for the trackers, the stages that it ran."""
_here: dict[int, Turn] = {}
"""Draws whose trackers and console are those of this process."""


@dataclass(frozen=True)
class Above:
    """A tracked run by its ids, name and facts."""

    run: str
    root: str
    name: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class DrawJob:
    """One draw with what its run needs beside its settings; `number` is its place among the draws."""

    number: int
    draw: Draw
    device: dict[str, Any]
    out: Path
    """metrics/evaluate.json of the draw."""
    above: Above | None
    """The tracked run that its stages hang from; None where the draw runs in the process that has it."""
    cwd: str
    """Where the command runs: paths in the settings may begin there."""

    def reads(self) -> list[Path]:
        """What the stages that are done have left."""
        found = []
        for stage in STAGES:
            if not is_done(self.draw, stage, key_of(self.draw, stage, self.device)):
                break
            found += _left_by(self.draw, stage)
        return found

    def writes(self) -> list[Path]:
        """All that the stages have left, the records that they are done last."""
        found = [path for stage in STAGES for path in _left_by(self.draw, stage)]
        return sorted(found, key=lambda path: path.parent == self.draw.done("").parent)


def _left_by(draw: Draw, stage: str) -> list[Path]:
    tops = [*draw.outputs(stage), draw.folder / "plots" / stage, draw.done(stage)]
    tops.append(draw.folder / "artifacts" / "digests" / f"{stage}.json")
    return [file for top in tops for file in (sorted(top.rglob("*")) if top.is_dir() else [top]) if file.is_file()]


def do_draw(job: DrawJob) -> list[str]:
    """Run the stages of a draw that are not done, here or on a node of a cluster, where `prepare` is done before.

    Raises as the stages do.
    """
    here = _here.get(job.number)
    if here is not None:
        ran = run_draw(job.draw, here.tracker(job.number), here.ctx.console, job.device)
    else:
        if Path(job.cwd).is_dir():
            os.chdir(job.cwd)
        check_own_files(job.draw)
        console = told_console(job.number, LINE)
        ran = run_draw(job.draw, _tracker(job), console, job.device, STAGES[1:])
    tell(job.number, (RAN, ran))
    return []


def check_own_files(draw: Draw) -> None:
    """Raise ConfigError where a node does not see a file of the user's own that a stage of a draw reads."""
    cfg = draw.cfg
    wanted = named_files(cfg) | ({} if cfg.cgan.file is None else {"cgan.file": cfg.cgan.file})
    there = {name for stage in STAGES for name in own_files(cfg, stage)}
    for name, value in wanted.items():
        if name not in there:
            raise ConfigError(
                f"{name} is {value}, which a node of the cluster does not see: draws need it under the same path on every"
                " node; put it into a folder that all see, or unset CGANKD_ENGINE"
            )


class Turn:
    """What this process does for its draws while they run: their tracked runs, their lines, their results."""

    def __init__(self, ctx: Context, draws: Sequence[Draw], device: Mapping[str, Any]) -> None:
        self.ctx, self.draws, self.device = ctx, draws, dict(device)
        self.children: dict[int, Tracker] = {}
        self.ran: dict[int, list[str]] = {}
        self.results: dict[int, dict[str, Any]] = {}
        self.held: dict[str, list[tuple[int, Event]]] = {}
        """Events of tracked runs that wait for files of a node, by run."""
        self.begun: dict[str, tuple[int, str]] = {}
        """Tracked runs of stages without an end: the draw, and the run above."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _here.clear()
        for child in self.children.values():
            child.close("FAILED")  # a finished one is closed already

    def here(self) -> None:
        """Let draws that run in this process use its trackers and console."""
        _here.update(dict.fromkeys(range(len(self.draws)), self))

    def tracker(self, number: int) -> Tracker:
        """The tracked run of a draw, begun when it is asked for."""
        if number not in self.children:
            seed = self.draws[number].seed
            name, facts = f"draw {seed}", {"draw": str(seed)}
            self.children[number] = self.ctx.tracker.child(name, {"seed": seed}, facts, again=True)
        return self.children[number]

    def job(self, number: int) -> DrawJob:
        """The draw at a place as a job."""
        draw = self.draws[number]
        out, cwd = draw.folder / "metrics" / "evaluate.json", str(Path.cwd())
        if _here:  # a tracked run begins when its draw does
            return DrawJob(number, draw, self.device, out, None, cwd)
        tracker = self.tracker(number)
        above = Above(tracker.run, tracker.root, tracker.name, tracker.facts)
        return DrawJob(number, draw, self.device, out, above, cwd)

    def kept(self, number: int) -> bool:
        """Whether nothing of a draw has to run; its result is then taken."""
        draw = self.draws[number]
        if not all(is_done(draw, stage, key_of(draw, stage, self.device)) for stage in STAGES):
            return False
        self.ended(self.job(number))
        return True

    def told(self, number: int, what: tuple[str, Any]) -> None:
        """Hand on what a draw tells; an event that names a file waits, with all later ones of its run, for the file."""
        kind, found = what
        if kind == RAN:
            self.ran[number] = found
            return
        if kind == LINE:
            text = f"draw {self.draws[number].seed}: {found}"
            self.ctx.console.print(text, markup=False, highlight=False, soft_wrap=True)
            return
        if kind == EVENT and found["kind"] in ("run", "close"):
            self.begun[found["run"]] = number, found["root"]
            if found["kind"] == "close":
                del self.begun[found["run"]]
        if "path" in found or found["run"] in self.held:
            self.held.setdefault(found["run"], []).append((number, found))
        else:
            self.ctx.tracker.sink.apply(found)

    def ended(self, job: DrawJob) -> None:
        """The files of a draw are in place: its result, and all that waited for them."""
        number, draw = job.number, job.draw
        for run, root in [(run, root) for run, (of, root) in self.begun.items() if of == number]:  # of a lost node
            end = {"kind": "close", "run": run, "root": root, "time_ms": time.time_ns() // 1_000_000}
            self.told(number, (EVENT, end | {"status": "FAILED"}))
        for run in [run for run, events in self.held.items() if events[0][0] == number]:
            for _, event in self.held.pop(run):
                own = {"path": str(draw.folder.resolve() / event["path"])} if "path" in event else {}
                self.ctx.tracker.sink.apply(event | own)
        child, result, ran = self.tracker(number), result_of(draw), self.ran.get(number, [])
        child.metrics(evaluate_names(result))
        before = set() if child.former is None else child.former.finished
        made = [stage for stage in STAGES if stage in ran or child_name(child.name, stage) in before]
        child.tags({"draw.made_now": " ".join(made) or "nothing", "chosen_arm": result["chosen_arm"]})
        child.verdict(result["verdict"])
        child.close("FINISHED")
        self.results[number] = result
        what = f"{len(ran)} stages run" if ran else "kept"
        self.ctx.say(f"draw {draw.seed} ({number + 1} of {len(self.draws)}, {what}): {result['verdict']}")


class _Events:
    """A sink that tells events; files are named from the folder of the draw, which lies elsewhere on another machine."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number, self.folder = number, folder.resolve()

    def apply(self, event: Event) -> None:
        """Tell it."""
        own = {"path": os.path.relpath(event["path"], self.folder)} if "path" in event else {}
        tell(self.number, (EVENT, event | own))


def _tracker(job: DrawJob) -> Tracker:
    """The tracked run of a draw, whose begin is told by the process that made it."""
    assert job.above is not None
    above, tracker = job.above, Tracker.__new__(Tracker)
    tracker.sink = _Events(job.number, job.draw.folder)
    tracker.run, tracker.root = above.run, above.root
    tracker.name, tracker.facts, tracker.closed, tracker.former = above.name, above.facts, False, None
    return tracker
