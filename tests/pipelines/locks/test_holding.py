"""One writer at a time: a second start waits and says for whom, workers of a killed stage count, leftovers go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from cgankd.config import ConfigError
from pipelines.locks import holding as locks
from tests.conftest import ROOT

Other = Callable[[str], subprocess.Popen[bytes]]
STAGE = """
import sys, time
from pathlib import Path
from filelock import FileLock
from pipelines.locks import holding as locks
from pipelines.engines import local as workers

def job(number):
    Path(sys.argv[1], "began").touch()
    while not Path(sys.argv[1], "go").exists():
        time.sleep(0.02)
    return []

if __name__ == "__main__":
    lock = FileLock(sys.argv[2])
    locks.take(lock, "student", print)
    Path(sys.argv[1], "held").touch()
    if sys.argv[3] == "workers":
        workers.run_side_by_side(job, [1], workers.Crew(1), lambda count: None, print)
    else:
        job(0)
"""


@pytest.fixture()
def lock(tmp_path: Path) -> FileLock:
    path = tmp_path / "artifacts" / "resume" / "student.lock"
    path.parent.mkdir(parents=True)
    return FileLock(path)


@pytest.fixture()
def other(tmp_path: Path, lock: FileLock) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """A process that holds the lock, "alone" or with "workers", until there is a file `go`."""
    begun: list[subprocess.Popen[bytes]] = []

    def begin(how: str) -> subprocess.Popen[bytes]:
        program = tmp_path / "stage.py"
        program.write_text(STAGE)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([sys.executable, str(program), str(tmp_path), lock.lock_file, how], env=environment)
        begun.append(process)
        while not (tmp_path / "began").exists():
            assert process.poll() is None
            time.sleep(0.02)
        return process

    yield begin
    (tmp_path / "go").touch()  # for workers that a failed test leaves
    for process in begun:
        process.kill()
        process.wait()


def test_a_second_start_waits_for_the_first_and_names_it(tmp_path: Path, lock: FileLock, other: Other) -> None:
    process, said = other("alone"), list[str]()

    def say(text: str) -> None:
        said.append(text)
        (tmp_path / "go").touch()

    locks.take(lock, "student", say)
    assert lock.is_locked and process.wait() == 0
    assert said == [
        f"waiting for another `cgankd student` (process {process.pid}) in this folder to end, {locks.WAIT_S:.0f} s at most"
    ]
    locks.release(lock)


def test_one_that_goes_on_is_named_with_the_way_to_end_it(
    tmp_path: Path, lock: FileLock, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "WAIT_S", 0.0)
    process = other("alone")
    with pytest.raises(ConfigError, match=rf"\(process {process.pid}\) is running in .*`kill {process.pid}`"):
        locks.take(lock, "student", print)
    (tmp_path / "go").touch()
    assert process.wait() == 0


def test_a_killed_process_leaves_no_lock(lock: FileLock, other: Other) -> None:
    process = other("alone")
    process.kill()
    process.wait()
    said = list[str]()
    locks.take(lock, "student", said.append)
    assert lock.is_locked and said == []
    locks.release(lock)
    assert locks.is_free(Path(lock.lock_file))


def test_workers_of_a_killed_stage_hold_its_lock_until_they_end(
    tmp_path: Path, lock: FileLock, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = other("workers")
    both = locks.holders(Path(lock.lock_file))
    workers = [pid for pid in both if pid != process.pid]
    assert process.pid in both and len(workers) == 1
    # As if the system sent the kill to the parent alone; the worker is stopped, so that nothing can end it meanwhile.
    os.kill(workers[0], signal.SIGSTOP)
    process.kill()
    process.wait()
    monkeypatch.setattr(locks, "WAIT_S", 0.0)
    try:
        if locks.holders(Path(lock.lock_file)):  # where the system ends it with its parent there is nobody to wait for
            with pytest.raises(ConfigError, match=rf"`kill {workers[0]}`"):
                locks.take(lock, "student", print)
    finally:
        for sign in (signal.SIGKILL, signal.SIGCONT):
            try:
                os.kill(workers[0], sign)
            except ProcessLookupError:
                break
    while not locks.is_free(Path(lock.lock_file)):
        time.sleep(0.02)


def test_leftovers_are_deleted_where_nobody_else_is_at_work(tmp_path: Path, lock: FileLock) -> None:
    half = tmp_path / "artifacts" / ".bank.h5.1.tmp"
    half.touch()
    os.utime(half, (1, 1))
    stranger = FileLock(tmp_path / "artifacts" / "resume" / "search-0.lock")
    locks.take(lock, "student", print)
    with stranger:
        locks.clean(tmp_path)
        assert half.exists(), "it may be the other's"
        locks.clean(tmp_path, stranger)
        assert not half.exists(), "both locks are mine"
    half.touch()
    os.utime(half, (1, 1))
    locks.clean(tmp_path)
    assert not half.exists()
    locks.release(lock)
    assert sorted(path.name for path in Path(lock.lock_file).parent.iterdir()) == ["search-0.lock", "student.lock"]


def test_what_killed_workers_left_half_written_goes_with_the_lock(tmp_path: Path, lock: FileLock) -> None:
    locks.take(lock, "student", print)
    half, other = tmp_path / "artifacts" / ".pool.h5.123.tmp", FileLock(tmp_path / "artifacts" / "resume" / "bank.lock")
    half.write_bytes(b"cut")
    os.utime(half, ns=(1, 1))
    with other:
        locks.release(lock)
    assert half.exists(), "another stage is at work here"
    locks.take(lock, "student", print)
    locks.release(lock)
    assert not half.exists() and not lock.is_locked


def test_workers_that_begin_together_clean_beside_each_other(tmp_path: Path, lock: FileLock) -> None:
    """None takes away the mark by which another tells what is old."""
    again = "import sys; from pathlib import Path; from pipelines.locks import holding\n"
    again += "for _ in range(300): holding.clean(Path(sys.argv[1]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    begun = [subprocess.Popen([sys.executable, "-c", again, str(tmp_path)], env=environment) for _ in range(2)]
    assert [process.wait() for process in begun] == [0, 0]
    assert [path.name for path in Path(lock.lock_file).parent.iterdir()] == []
