"""Workers that die or run out of memory cost a place and not the run; alone they end it with a sentence."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from cgankd.config import ConfigError
from cgankd.fit.room import NoRoom
from pipelines.engines.local import Crew, run_side_by_side
from pipelines.runtime import memory
from tests.pipelines.slow_job import FailingJob, do_or_fail


@pytest.fixture(autouse=True)
def light(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workers find a torch that is imported in no time; what is tested here computes nothing."""
    folder = tmp_path_factory.mktemp("light")
    (folder / "torch.py").write_text("def set_num_threads(count): pass")
    monkeypatch.syspath_prepend(folder)
    return folder


def run(jobs: list[FailingJob], crew: Crew) -> tuple[list[str], list[int]]:
    """What was said, and what was told of finished jobs."""
    said: list[str] = []
    counts: list[int] = []
    run_side_by_side(do_or_fail, jobs, crew, counts.append, said.append)
    return said, counts


def jobs_of(folder: Path, how: str, times: int, number: int = 4) -> list[FailingJob]:
    """Jobs of which the second fails so often."""
    return [FailingJob(folder, n, how, times if n == 1 else 0) for n in range(number)]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("kill", "a worker process was killed by the system or by hand (SIGKILL, as happens where memory runs out); "),
        ("abort", "a worker process was ended (SIGABRT, as happens where memory runs out); "),
        ("cuda", "a worker process had no memory left: memory ran out: another 2.1 GB were needed, and "),
        ("memory", "a worker process had no memory left: memory ran out: there was no room for more, and "),
    ],
)
def test_a_worker_that_is_lost_costs_a_place(tmp_path: Path, how: str, words: str) -> None:
    said, counts = run(jobs_of(tmp_path, how, 1), Crew(2, "students"))
    assert {path.name for path in tmp_path.glob("done-*")} == {f"done-{n}" for n in range(4)}
    assert counts == sorted(counts) and counts[-1] == 4
    assert [line for line in said if line.startswith(words)] == said[:1] and len(said) == 1
    assert " left (" in said[0] and said[0].endswith(
        "going on with 1 students at a time: what is finished is kept, and no number depends on it"
    )


@pytest.mark.parametrize(("how", "words"), [("kill", "SIGKILL"), ("cuda", "another 2.1 GB were needed")])
def test_a_worker_that_is_lost_alone_ends_the_run_with_a_sentence(tmp_path: Path, how: str, words: str) -> None:
    with pytest.raises(NoRoom, match=words) as caught:
        run(jobs_of(tmp_path, how, 5), Crew(3, "students", 1e6))
    text = str(caught.value)
    assert " left (" in text and "\n" not in text and "batch_size" in text
    assert "although it ran alone: it needs about 0.001 GB" in text or how == "cuda"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("exit", "ended with exit code 1 before its work was done"),
        ("terminate", "was ended by SIGTERM before its work"),
    ],
)
def test_a_worker_that_ends_otherwise_is_not_said_to_lack_memory(tmp_path: Path, how: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        run(jobs_of(tmp_path, how, 5), Crew(1, "students", 1e6))
    assert "memory" not in str(caught.value) and "GB" not in str(caught.value) and not isinstance(caught.value, NoRoom)
    (tmp_path / "two").mkdir()
    said, counts = run(jobs_of(tmp_path / "two", how, 1), Crew(2, "students"))
    assert counts[-1] == 4 and "memory" not in said[0] and "GB" not in said[0]


def test_an_error_that_is_no_lack_of_memory_is_raised_at_once(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run(jobs_of(tmp_path, "divide", 5), Crew(2))


def test_a_worker_without_room_for_its_libraries_says_nothing_itself(
    tmp_path: Path, light: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The child's own import fails, as under `ulimit -v`; the parent's sentence is all that is seen."""
    (light / "torch.py").write_text("raise ImportError('libtorch_cpu.so: failed to map segment from shared object')")
    with pytest.raises(NoRoom, match="had no room to load its libraries although it ran alone"):
        run(jobs_of(tmp_path, "kill", 0, 2), Crew(1))
    assert "Traceback" not in capfd.readouterr().err


def test_fewer_begin_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(memory, "shared_room", lambda: memory.Limit("a container", 3.2e9))
    assert Crew(4, "students", 1.2e9).size(8, said.append) == 2
    assert said == [
        "2 in place of 4 students at a time: each needs about 1.2 GB of memory, and 3.2 GB are left (a container); no number"
        " depends on it"
    ]
    assert Crew(4, "students", 5e9).size(8, said.append) == 1, "one at least: what it needs is an estimate"
    assert Crew(4, "students", 0.5e9).size(8, said.append) == 4 and len(said) == 2
    assert Crew(4, "students").size(3, said.append) == 3 and len(said) == 2
    monkeypatch.setattr(memory, "shared_room", lambda: None)
    assert Crew(4, "students", 5e9).size(8, said.append) == 4 and len(said) == 2


def test_a_killed_parent_leaves_no_worker(tmp_path: Path, light: Path) -> None:
    """By SIGKILL of the parent alone: no worker goes on with the queue, none idles."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("reads /proc")
    from pipelines.runtime.bonds import lives, start_ticks
    from tests.pipelines.runtime.test_bonds import program, until

    text = (
        "import sys; from pathlib import Path\n"
        "import cgankd.fit.ranks; from pipelines.engines.local import Crew, run_side_by_side\n"
        "from tests.pipelines.slow_job import SlowJob, wait_for_release\n"
        "sys.path.insert(0, sys.argv[2])  # for the workers; the engine itself needs the real torch\n"
        "if __name__ == '__main__':\n"
        "    jobs = [SlowJob(Path(sys.argv[1]), n) for n in range(6)]\n"
        "    run_side_by_side(wait_for_release, jobs, Crew(2), print, print)\n"
    )
    parent = program(text, str(tmp_path), str(light))
    assert until(lambda: len(list(tmp_path.glob("began-*"))) == 2)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    found = [(int(pid), start_ticks(int(pid))) for pid in children]
    assert len(found) >= 2
    parent.kill()
    parent.wait()
    assert until(lambda: not any(lives(*child) for child in found))
    (tmp_path / "release").touch()
    assert len(list(tmp_path.glob("began-*"))) == 2 and not list(tmp_path.glob("ended-*"))


def test_a_worker_that_is_killed_while_others_wait_is_found_in_the_real_pool(tmp_path: Path) -> None:
    """The job under way in the other worker is done again too, and nothing is done twice at once."""
    from tests.pipelines.slow_job import SlowJob, wait_for_release

    said: list[str] = []
    counts: list[int] = []

    def kill_one(jobs: Any = None) -> None:
        while len(list(tmp_path.glob("began-*"))) < 2:
            pass
        pid = int((tmp_path / "began-0").read_text())
        os.kill(pid, signal.SIGKILL)
        (tmp_path / "release").touch()

    thread = threading.Thread(target=kill_one, daemon=True)
    thread.start()
    run_side_by_side(wait_for_release, [SlowJob(tmp_path, n) for n in range(5)], Crew(2), counts.append, said.append)
    thread.join()
    assert counts[-1] == 5 and len(list(tmp_path.glob("ended-*"))) == 5
    assert len(said) == 1 and "SIGKILL" in said[0]
