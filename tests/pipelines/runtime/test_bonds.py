"""No process outlives the one that started it: workers, servers and what DVC runs, whatever ends the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.runtime.bonds import dvc_process, lives, run_bonded, start_ticks
from tests.conftest import ROOT

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
PATIENCE_S = 240.0
"""A hang is told from slowness; no test depends on how much shorter it takes."""


def until(true: Callable[[], bool]) -> bool:
    """Wait for something to come true; whether it did."""
    end = time.monotonic() + PATIENCE_S
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


def program(text: str, *words: str, **env: str) -> subprocess.Popen[bytes]:
    """A Python program that knows this code."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | env
    return subprocess.Popen([sys.executable, "-c", text, *words], env=environment, start_new_session=True)


@pytest.fixture()
def pids(tmp_path: Path) -> Iterator[Path]:
    """A folder where programs note their process ids; what still lives of them is ended after the test."""
    yield tmp_path
    for path in tmp_path.glob("*.pid"):
        pid, ticks = path.read_text().split("|")
        if lives(int(pid), ticks):
            os.kill(int(pid), signal.SIGKILL)


NOTE = (
    "import os, pathlib, signal, sys, time; from pipelines.runtime import bonds\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # tests begun in the background have it ignored
    "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # and those begun by nohup this
    "def note(name):\n"
    "    new = pathlib.Path(sys.argv[1], name + '.new'); new.write_text(f'{os.getpid()}|{bonds.start_ticks(os.getpid())}')\n"
    "    new.rename(new.with_suffix('.pid'))\n"
)


def noted(folder: Path, name: str) -> tuple[int, str]:
    assert until((folder / f"{name}.pid").exists), f"{name} did not begin"
    pid, ticks = (folder / f"{name}.pid").read_text().split("|")
    return int(pid), ticks


CHILD = NOTE + "bonds.end_with_parent(int(sys.argv[2])); note('child'); time.sleep(600)"
PARENT = NOTE + (
    "import subprocess; subprocess.Popen([sys.executable, '-c', sys.argv[2], sys.argv[1], str(os.getpid())]); note('parent');"
    " time.sleep(600)"
)


@LINUX
@pytest.mark.parametrize("by_system", [True, False])
def test_a_child_ends_when_its_parent_is_killed(pids: Path, by_system: bool) -> None:
    """By the system's word, and by the watch alone where the system has none."""
    child = CHILD if by_system else CHILD.replace("bonds.end", "bonds.ask_system = lambda sign: None; bonds.end")
    parent = program(PARENT, str(pids), child)
    found = noted(pids, "child")
    assert lives(*found)
    parent.kill()
    parent.wait()
    assert until(lambda: not lives(*found))


@LINUX
def test_a_child_whose_parent_is_gone_before_it_begins_ends_too(pids: Path) -> None:
    child = program(CHILD, str(pids), "1")  # its parent is this process
    assert child.wait(PATIENCE_S) == -signal.SIGTERM


@LINUX
def test_a_child_that_does_not_heed_is_ended(pids: Path) -> None:
    deaf = CHILD.replace(
        "bonds.end", "import signal; signal.signal(15, signal.SIG_IGN); bonds.GRACE_S = 0.1; bonds.end"
    )
    parent = program(PARENT, str(pids), deaf)
    found = noted(pids, "child")
    parent.kill()
    parent.wait()
    assert until(lambda: not lives(*found))


SERVER = NOTE + (
    "import subprocess, signal\n"
    "worker = 'import sys, time; exec(sys.argv[2]); note(\"server-worker\"); time.sleep(600)'\n"
    "child = subprocess.Popen([sys.executable, '-c', worker, sys.argv[1], sys.argv[2]])\n"
    "signal.signal(signal.SIGTERM, lambda n, f: child.send_signal(n))\n"  # as MLflow passes it on
    "note('server'); child.wait()"
)
FRONT = NOTE + (
    "note('front'); print(bonds.run_bonded([sys.executable, '-c', sys.argv[2], sys.argv[1], sys.argv[3]]), flush=True)"
)


@LINUX
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_server_and_its_own_workers_end_with_the_command(pids: Path, sign: signal.Signals) -> None:
    front = program(FRONT, str(pids), SERVER, NOTE)
    server, worker = noted(pids, "server"), noted(pids, "server-worker")
    assert lives(*server) and lives(*worker)
    front.send_signal(sign)
    assert front.wait(PATIENCE_S) == (-sign if sign == signal.SIGKILL else 0)
    assert until(lambda: not lives(*server) and not lives(*worker))


@LINUX
def test_a_server_that_does_not_heed_is_ended_with_its_group(pids: Path) -> None:
    deaf = SERVER.replace("lambda n, f: child.send_signal(n)", "signal.SIG_IGN")
    front = program(FRONT.replace("note('front')", "bonds.GRACE_S = 0.2; note('front')"), str(pids), deaf, NOTE)
    server, worker = noted(pids, "server"), noted(pids, "server-worker")
    front.terminate()
    assert front.wait(PATIENCE_S) == 0
    assert until(lambda: not lives(*server) and not lives(*worker))


def test_the_exit_status_of_a_program_is_handed_on() -> None:
    handlers = [signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT)]
    assert run_bonded([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    assert run_bonded([sys.executable, "-c", "import os, sys; sys.exit(os.environ['A'] != 'b')"], {"A": "b"}) == 0
    assert [signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT)] == handlers


@LINUX
def test_a_stage_ends_with_the_dvc_above_its_shell(pids: Path) -> None:
    """DVC is known by being the nearest process above whose own environment has no DVC_STAGE."""
    stage = NOTE + "bonds.end_with(bonds.dvc_process()); note('stage'); time.sleep(600)"
    dvc = NOTE + (
        "import shlex, subprocess; note('dvc')\n"
        "words = shlex.join([sys.executable, '-c', sys.argv[2], sys.argv[1]])\n"
        "subprocess.call(['/bin/sh', '-c', words + '; true'], env=os.environ | {'DVC_STAGE': 'cgan'})"
    )
    parent = program(dvc, str(pids), stage)
    found = noted(pids, "stage")
    parent.kill()
    parent.wait()
    assert until(lambda: not lives(*found))


def test_without_dvc_there_is_none_to_end_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert dvc_process() is None


@LINUX
def test_a_process_id_that_another_has_now_is_not_the_parent() -> None:
    mine = start_ticks(os.getpid())
    assert lives(os.getpid(), mine) and not lives(os.getpid(), str(int(mine) - 1))
    assert start_ticks(2**22 + 1) == "" and not lives(2**22 + 1, "5")
