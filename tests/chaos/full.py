"""A disk that fills up while a stage runs: a small file system of its own, in a mount namespace, and seeded moments."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.files.layout import STAGES
from tests.chaos import state
from tests.chaos.kills import LOOK_S, half_written, start, tail
from tests.chaos.projects import KINDS, copy, settings
from tests.tiny import write_params

INSIDE = "CHAOS_OWN_MOUNTS"
SIZE = "256m"
OTHER = dict.fromkeys(STAGES, "seed=1") | {"evaluate": "evaluate.confidence=0.9"}
"""A setting under which a stage leaves other files than those that are there."""
LIMIT_S = 300.0
RECORDS = ("artifacts/cache", "artifacts/logs", "artifacts/resume")


@dataclass
class Filled:
    """One disk that was filled up: in which stage, when, and what came of it."""

    stage: str
    moment: str
    code: int
    ended: str
    """The files afterwards: "former" or "new"."""
    seconds: float
    compared: int = 0
    faults: list[str] = field(default_factory=list)


def in_own_mounts() -> None:
    """Begin this program again where it may mount, unseen outside. Raises SystemExit where the system forbids it."""
    if INSIDE in os.environ:
        return
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        raise SystemExit("this system gives no mount namespace (unshare -rm): a small disk cannot be made")
    command = ["unshare", "-rm", sys.executable, "-P", "-m", "tests.chaos", *sys.argv[1:]]
    os.execvpe(command[0], command, os.environ | {INSIDE: "1"})


class Disk:
    """A file system in memory, of SIZE, with a project in which all stages have run."""

    def __init__(self, folder: Path) -> None:
        self.top, self.made, self.log = folder / "disk", folder / "disk-made", folder / "disk.log"
        self.work, self.filler = self.top / "project", self.top / "filler"
        self.top.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(self.top)], check=True)
        code = self.top / state.CODE  # where commands of a project look for theirs
        code.symlink_to(folder / state.CODE)
        if not self.made.exists():
            self.work.mkdir()
            values = settings(KINDS["classes"], short=True)
            values["tracking"]["mlflow"] = True
            write_params(self.work, values)
            found, said, _ = self.run(["cgankd", "run"], None)
            assert found == 0, said[-3000:]
            copy(self.work, self.made)
        self.good: dict[str, tuple[dict[str, str], float, int]] = {}

    def fresh(self) -> None:
        """The project as it was made."""
        self.filler.unlink(missing_ok=True)
        copy(self.made, self.work)

    def wanted(self, stage: str) -> tuple[dict[str, str], float, int]:
        """What the stage leaves on a disk with room, the seconds that it takes, and the temporary files that come and go."""
        if stage not in self.good:
            self.fresh()
            begin_s = time.monotonic()
            code, said, count = self.run(command(stage), None)
            assert code == 0, said[-3000:]
            self.good[stage] = state.files_of(self.work), time.monotonic() - begin_s, count
        return self.good[stage]

    def run(self, words: list[str], fill: tuple[str, float] | None) -> tuple[int, str, int]:
        """Exit code, what was said, and how many temporary files were seen; the disk is filled after seconds or such files."""
        begin_at = self.log.stat().st_size if self.log.exists() else 0
        process, begin_s = start(words, self.work, self.log), time.monotonic()
        seen, count = set[str](), 0
        while process.poll() is None:
            time.sleep(LOOK_S)
            there = half_written(self.work)
            count, seen = count + len(there - seen), there
            spent_s = time.monotonic() - begin_s
            if fill is not None and (spent_s if fill[0] == "any" else count) >= fill[1]:
                self.fill()
                fill = None
            assert spent_s < LIMIT_S, f"{' '.join(words)} took longer than {LIMIT_S:.0f} s"
        process.wait()
        return process.returncode if process.returncode is not None else -1, tail(self.log, begin_at), count

    def fill(self) -> None:
        """Take all that is left, to the last byte."""
        with suppress(OSError), self.filler.open("wb", buffering=0) as file:
            size = 2**20
            while size:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2


def command(stage: str) -> list[str]:
    """The stage under its other setting."""
    return ["cgankd", stage, "--set", OTHER[stage]]


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """The small disk, unmounted at the end."""
    made = Disk(folder)
    try:
        yield made
    finally:
        subprocess.run(["umount", "-l", str(made.top)], check=True)


def play(small: Disk, stage: str, seed: int) -> Filled:
    """Fill the disk while the stage runs, make room, and give the same command again."""
    good, seconds, writes = small.wanted(stage)
    dice = random.Random(seed)
    moment = dice.choice(("any", "write"))
    at = dice.uniform(0.0, seconds) if moment == "any" else float(dice.randint(1, max(1, writes)))
    small.fresh()
    before, begin_s = state.files_of(small.work), time.monotonic()
    code, said, _ = small.run(command(stage), (moment, at))
    after = comparable(state.files_of(small.work))
    faults = [] if code in (0, 2) else [f"exit code {code}"]
    if "Traceback" in said:
        faults.append("a traceback")
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if code == 2 and (len(errors) != 1 or not any(word in errors[0] for word in ("No space left", "MB"))):
        faults.append(f"no single sentence of room: {errors}")
    if code == 2 and errors and str(small.work) not in errors[-1]:
        faults.append(f"a sentence without a path: {errors[-1]}")
    full = small.filler.exists()
    small.filler.unlink(missing_ok=True)
    ended = "new" if after == comparable(good) else "former" if after == comparable(before) else "mixed"
    code_again, said_again, _ = small.run(command(stage), None)
    if code_again or "Traceback" in said_again:
        faults.append(f"the same command ends with {code_again} when there is room: {said_again[-300:]}")
    faults += state.differences(*(comparable(files, pictures=True) for files in (state.files_of(small.work), good)))
    if ended == "mixed":
        faults += [f"neither former nor new: {line}" for line in state.differences(after, comparable(before))]
    if left := state.temporary(small.work):
        faults.append(f"left: {left}")
    if faults:
        faults.append(said[-1500:])
    found = Filled(
        stage, moment if full else "ended before", code, ended, time.monotonic() - begin_s, len(good), faults
    )
    return found


def comparable(files: dict[str, str], *, pictures: bool = False) -> dict[str, str]:
    """Without what is kept for a next run, which a run under another setting adds to; pictures do not wait for the rest."""
    left_out = RECORDS if pictures else (*RECORDS, "plots/")
    return {name: digest for name, digest in files.items() if not name.startswith(left_out)}
