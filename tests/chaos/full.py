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

import optuna

from pipelines.files.layout import STAGES
from tests.chaos import state
from tests.chaos.kills import LOOK_S, half_written, start, tail
from tests.chaos.projects import KINDS, copy, settings
from tests.tiny import write_params

INSIDE = "CHAOS_OWN_MOUNTS"
SIZE = "256m"
OTHER = dict.fromkeys(STAGES, "seed=1") | {"evaluate": "evaluate.confidence=0.9"}
"""A setting under which a stage leaves other files than those that are there."""
SEARCH = "search"
COMMANDS = (*STAGES, SEARCH)
STUDY, NUM_TRIALS = "filled", 3
LIMIT_S = 300.0
RECORDS = ("artifacts/cache", "artifacts/logs", "artifacts/resume")


@dataclass
class Filled:
    """One disk that was filled up: in which stage, when, and what came of it."""

    stage: str
    moment: str
    code: int
    ended: str
    """The files afterwards: "former" or "new"; "part" is a search with some of its trials."""
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


@dataclass
class Undisturbed:
    """What a command leaves on a disk with room, its seconds, the temporary files that come and go, and the bytes it takes."""

    files: dict[str, str]
    seconds: float
    writes: int
    grown: int


@dataclass
class Moment:
    """When the disk fills up, and the bytes that are left for one more write: after seconds ("any"), temporary files ("write") or
    bytes that the command has taken ("bytes")."""

    kind: str
    at: float
    left: int

    @property
    def words(self) -> str:
        """As it is counted."""
        return f"{self.kind}, {'some room' if self.left else 'no room'} left"

    @classmethod
    def drawn(cls, dice: random.Random, good: Undisturbed) -> Moment:
        """Half of them leave nothing, the others less than the command needs, so that a file is cut off in its middle."""
        kind = dice.choice(("any", "write", "bytes"))
        at = {"any": good.seconds, "write": good.writes + 1.0, "bytes": float(good.grown)}[kind] * dice.random()
        return cls(kind, at, dice.choice((0, dice.randrange(max(1, good.grown)))))


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
        self.good: dict[str, Undisturbed] = {}
        self.grown = 0

    def fresh(self) -> None:
        """The project as it was made."""
        self.filler.unlink(missing_ok=True)
        copy(self.made, self.work)

    def wanted(self, stage: str) -> Undisturbed:
        """What the command does on a disk with room."""
        if stage not in self.good:
            self.fresh()
            begin_s = time.monotonic()
            code, said, count = self.run(command(stage), None)
            assert code == 0, said[-3000:]
            self.good[stage] = Undisturbed(self.files(), time.monotonic() - begin_s, count, self.grown)
        return self.good[stage]

    def files(self) -> dict[str, str]:
        """Files by their digests, and in place of the search's database, whose bytes hold times, its finished trials."""
        found = state.files_of(self.work)
        if found.pop("artifacts/search.db", None) is None:
            return found
        storage = optuna.storages.RDBStorage(f"sqlite:///{self.work}/artifacts/search.db")
        studies = [one.study_name for one in optuna.get_all_study_summaries(storage)]
        trials = optuna.load_study(study_name=STUDY, storage=storage).get_trials() if STUDY in studies else []
        storage.remove_session()
        done = [(t.params, t.user_attrs["val"]) for t in trials if t.state == optuna.trial.TrialState.COMPLETE]
        return found | {f"trial {params}": f"{done.count((params, val))} x {val}" for params, val in done}

    def used(self) -> int:
        """Bytes that are taken."""
        return shutil.disk_usage(self.top).used

    def run(self, words: list[str], moment: Moment | None) -> tuple[int, str, int]:
        """Exit code, what was said, and how many temporary files were seen; the disk is filled at the moment."""
        begin_at, begin, self.grown = self.log.stat().st_size if self.log.exists() else 0, self.used(), 0
        process, begin_s = start(words, self.work, self.log), time.monotonic()
        seen, count = set[str](), 0
        while process.poll() is None:
            time.sleep(LOOK_S)
            there = half_written(self.work)
            count, seen = count + len(there - seen), there
            spent_s, self.grown = time.monotonic() - begin_s, max(self.grown, self.used() - begin)
            reached = {"any": spent_s, "write": count, "bytes": self.grown}
            if moment is not None and reached[moment.kind] > moment.at:
                self.fill(moment.left)
                moment = None
            assert spent_s < LIMIT_S, f"{' '.join(words)} took longer than {LIMIT_S:.0f} s"
        process.wait()
        return process.returncode if process.returncode is not None else -1, tail(self.log, begin_at), count

    def fill(self, left: int) -> None:
        """Take all that there is but so many bytes."""
        with suppress(OSError), self.filler.open("wb", buffering=0) as file:
            size = 2**20
            while size:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2
        os.truncate(self.filler, max(0, self.filler.stat().st_size - left))


def command(stage: str) -> list[str]:
    """The stage under its other setting, or a search."""
    if stage == SEARCH:
        return ["cgankd", SEARCH, "--trials", str(NUM_TRIALS), "--study", STUDY]
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
    wanted = small.wanted(stage)
    good, moment = wanted.files, Moment.drawn(random.Random(seed), wanted)
    small.fresh()
    before, begin_s = small.files(), time.monotonic()
    code, said, _ = small.run(command(stage), moment)
    full = small.filler.exists()
    small.filler.unlink(missing_ok=True)  # SQLite wants room to be read where a write was cut off
    after = comparable(small.files())
    faults = [] if code in (0, 2) else [f"exit code {code}"]
    if "Traceback" in said:
        faults.append("a traceback")
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if code == 2 and (len(errors) != 1 or not any(word in errors[0] for word in ("No space left", "MB"))):
        faults.append(f"no single sentence of room: {errors}")
    if code == 2 and errors and str(small.work) not in errors[-1]:
        faults.append(f"a sentence without a path: {errors[-1]}")
    ended = "new" if after == comparable(good) else "former" if after == comparable(before) else "mixed"
    if ended == "mixed" and stage == SEARCH and comparable(before).items() <= after.items() <= good.items():
        ended = "part"
    code_again, said_again, _ = small.run(command(stage), None)
    if code_again or "Traceback" in said_again:
        faults.append(f"the same command ends with {code_again} when there is room: {said_again[-300:]}")
    faults += state.differences(*(comparable(files, pictures=True) for files in (small.files(), good)))
    if ended == "mixed":
        faults += [f"neither former nor new: {line}" for line in state.differences(after, comparable(before))]
    if left := state.temporary(small.work):
        faults.append(f"left: {left}")
    if faults:
        faults.append(said[-1500:])
    found = Filled(
        stage, moment.words if full else "ended before", code, ended, time.monotonic() - begin_s, len(good), faults
    )
    return found


def comparable(files: dict[str, str], *, pictures: bool = False) -> dict[str, str]:
    """Without what is kept for a next run, which a run under another setting adds to; pictures do not wait for the rest."""
    left_out = RECORDS if pictures else (*RECORDS, "plots/")
    return {name: digest for name, digest in files.items() if not name.startswith(left_out)}
