"""`python -m tests.chaos`: the long version. Stopped, the same command goes on; what was found is in FOLDER/rounds.jsonl."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pipelines.files.layout import STAGES
from tests.chaos import full, projects, rounds, searches, state
from tests.conftest import ROOT

A_ROUND = 14
"""Kills of one project before it is let to its end."""


def main() -> int:
    """Rounds until there are enough kills, then the report; exit code 1 where something was not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kills in all, about a quarter of them in searches")
    parser.add_argument("--folder", type=Path, default=Path("build/chaos"), help="where projects and results lie")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--short", action="store_true", help="scalar labels on the smallest settings alone, as in `make test`"
    )
    parser.add_argument(
        "--fills", type=int, default=0, help="no kills: so many times the disk fills up under a stage or a search"
    )
    parser.add_argument("--report", action="store_true", help="only say what was found so far")
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if options.fills:
        return fill(folder, options.fills, options.seed)
    results = folder / "rounds.jsonl"
    if not options.report:
        load(projects.code(folder / state.CODE))
        go_on(folder, results, options)
    found = read(results)
    sys.stdout.write(report(found))
    return int(any(one["faults"] for one in found))


def fill(folder: Path, number: int, seed: int) -> int:
    """Fill a small disk under each stage and a search in turn, and say what came of it; exit code 1 where something was wrong."""
    full.in_own_mounts()
    load(projects.code(folder / state.CODE))
    begin_s, found = time.monotonic(), list[full.Filled]()
    with full.disk(folder) as small:
        for turn in range(number):
            found.append(full.play(small, full.COMMANDS[turn % len(full.COMMANDS)], seed + turn))
            one = found[-1]
            say(f"{turn} {one.stage}, {one.moment}: exit code {one.code}, files {one.ended}, {one.seconds:.0f} s")
            for fault in one.faults:
                say(f"  {fault}")
    say(f"{number} fills in {(time.monotonic() - begin_s) / 60:.0f} minutes")
    say(f"stage: {words(Counter(one.stage for one in found))}")
    say(f"moment: {words(Counter(one.moment for one in found))}")
    say(
        f"exit code: {words(Counter(str(one.code) for one in found))}; files: {words(Counter(one.ended for one in found))}"
    )
    say(f"files compared: {sum(one.compared for one in found)}; faults: {sum(bool(one.faults) for one in found)}")
    return int(any(one.faults for one in found))


def load(code: Path) -> None:
    """Load the code of that folder into this process, of which the killed ones are forks; starts anew where it has another."""
    if os.environ.get("PYTHONPATH", "").split(os.pathsep)[0] != str(code):
        before = os.environ.get("PYTHONPATH", "")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(code), str(ROOT), *filter(None, [before])])}
        environment |= {"OMP_NUM_THREADS": "1", "CGANKD_THREADS": "1"}
        os.execve(sys.executable, [sys.executable, "-P", "-m", "tests.chaos", *sys.argv[1:]], environment)
    for name in (
        *(f"pipelines.stages.{stage}" for stage in STAGES),
        "pipelines.search.run",
        "pipelines.runtime.opening",
    ):
        assert str(code) in str(importlib.import_module(name).__file__), name


def read(results: Path) -> list[dict[str, Any]]:
    """The rounds so far."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def go_on(folder: Path, results: Path, options: argparse.Namespace) -> None:
    """Further rounds, scalar labels, class labels and searches in turn, until there are enough kills."""
    kills, seed = options.kills, options.seed
    if options.short:
        playing: list[Any] = [Pipelines(folder, projects.KINDS["scalars"], short=True)]
    else:
        own = {name: Pipelines(folder, kind) for name, kind in projects.KINDS.items()}
        tried = [searches.Searches(folder, own["classes"], storage) for storage in searches.storages(say)]
        playing = [*own.values(), *tried]
    while (left := kills - sum(len(one["kills"]) for one in read(results))) > 0:
        number = len(read(results))
        found = playing[number % len(playing)].play(seed + number, min(A_ROUND, left))
        with results.open("a") as file:
            file.write(rounds.as_json(found) + "\n")
        say(f"round {number}, {found.kind}: {len(found.kills)} kills in {found.seconds:.0f} s, {found.compared} files,"
            f" {len(found.faults)} faults")  # fmt: skip
        for fault in found.faults:
            say(f"  {fault}")


class Pipelines:
    """Rounds of one kind of project; its undisturbed run is made once and kept."""

    def __init__(self, folder: Path, kind: projects.Kind, *, short: bool = False) -> None:
        self.folder, self.kind, self.short = folder, kind, short
        name = kind.name.replace(" ", "-")
        self.template, self.reference, self.work = (folder / f"{name}-{of}" for of in ("new", "undisturbed", "killed"))
        self.known = folder / f"{name}.json"

    def wanted(self) -> dict[str, Any]:
        """The files of an undisturbed run, and the seconds that it took."""
        if not self.known.exists():
            if not self.template.exists():
                projects.make(self.template, self.kind, short=self.short)
            files: list[dict[str, str]] = []
            seconds = 0.0
            for _ in range(1 if self.short else 2):
                begin_s = time.monotonic()
                files.append(rounds.undisturbed(self.kind, projects.copy(self.template, self.reference)))
                seconds = time.monotonic() - begin_s
            assert not (found := state.differences(files[0], files[-1])), found
            say(f"{self.kind.name}: {len(files)} undisturbed runs left the same {len(files[0])} files; {seconds:.0f} s")
            self.known.write_text(json.dumps({"files": files[0], "seconds": seconds}))
        known: dict[str, Any] = json.loads(self.known.read_text())
        return known

    def play(self, seed: int, most: int) -> rounds.Round:
        """One round in a fresh copy."""
        known = self.wanted()
        work = projects.copy(self.template, self.work)
        return rounds.play(self.kind, work, known["files"], seed, most, longest_s=known["seconds"] / 4)


def report(found: list[dict[str, Any]]) -> str:
    """Kills, minutes, files compared, seconds lost, faults."""
    kills = [kill for one in found for kill in one["kills"]]
    if not kills:
        return "no kills yet\n"
    lines = [
        f"{len(kills)} kills in {len(found)} rounds, {sum(one['seconds'] for one in found) / 60:.0f} minutes",
        f"rounds: {words(Counter(one['kind'] for one in found))}",
        f"hit: {words(Counter(kill['target'] for kill in kills))}",
        f"moment: {words(Counter(kill['moment'] for kill in kills))}",
        f"stage: {words(Counter(kill['stage'] or 'between stages' for kill in kills))}",
        f"files compared with an undisturbed run: {sum(one['compared'] for one in found)}",
        f"starts that waited for an earlier process: {sum(one['waited'] for one in found)},"
        f" that named one to end: {sum(one['ended_by_hand'] for one in found)}",
        f"processes left some seconds after a group was killed: {sum(k['orphans'] for k in kills if k['target'] == 'group')}",
    ]
    lines += lost(kills)
    faults = [f"round {place} ({one['kind']}): {fault}" for place, one in enumerate(found) for fault in one["faults"]]
    lines += [f"faults: {len(faults)}", *faults]
    lines += [f"not compared: {name} ({why})" for name, why in state.NOT_COMPARED.items()]
    return "\n".join(lines) + "\n"


def lost(kills: list[dict[str, Any]]) -> list[str]:
    """Work lost by kill, of all stages and of each."""
    by: dict[str, list[dict[str, Any]]] = {}
    for kill in kills:
        if kill["stage"]:
            by.setdefault("all", []).append(kill)
            by.setdefault(kill["stage"], []).append(kill)
    lines = []
    for stage, found in by.items():
        clock, processor = ([kill[key] for kill in found] for key in ("lost_s", "lost_processor_s"))
        lines.append(
            f"seconds of work lost, {stage} ({len(found)} kills): median {statistics.median(clock):.1f}, most {max(clock):.1f};"
            f" of a processor median {statistics.median(processor):.2f}, most {max(processor):.2f}"
        )
    return lines


def words(count: Counter[str]) -> str:
    """ "3 a, 2 b"."""
    return ", ".join(f"{number} {name}" for name, number in count.most_common())


def say(text: str) -> None:
    """A line at once."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
