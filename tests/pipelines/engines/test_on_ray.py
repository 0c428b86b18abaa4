"""The same jobs on a Ray of this machine: equal bytes, lost workers, refusals, Ctrl-C. Skipped where Ray is not installed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cgankd.config import ConfigError
from cgankd.fit.room import NoRoom
from pipelines.engines import heads
from pipelines.engines import on_ray as on_ray_module
from pipelines.engines.card import card_of
from pipelines.engines.carrier import ByRay, Sent
from pipelines.engines.choice import executor
from pipelines.engines.executor import Hear
from pipelines.engines.freight import item_of
from pipelines.engines.heads import LOOPBACK
from pipelines.engines.local import Crew
from pipelines.engines.on_ray import place
from pipelines.runtime.bonds import start_ticks
from pipelines.students.run_arm import Job, train_job
from tests.distill.arms import job, settings, workplace
from tests.pipelines.engines.small_jobs import KeepingJob, SmallJob, copy, record
from tests.pipelines.runtime.test_bonds import until

for name, value in LOOPBACK.items():
    os.environ.setdefault(name, value)  # before Ray is imported
ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'cgankd[ray]')")


CREW = Crew(2, "copies")


@pytest.fixture(scope="module")
def on_ray() -> Iterator[None]:
    """The engine is Ray, one of this machine alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CGANKD_ENGINE", "ray")
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
    ray.shutdown()


def students(folder: Path) -> list[Job]:
    """Three students that read all kinds of files; the last starts from the first."""
    folder.mkdir(parents=True)
    workplace(folder, False)
    cfg = settings(False, keep_best=True)
    return [job(folder, cfg, "0" * 32), job(folder, cfg, "1" * 32, kd=False), job(folder, cfg, "2" * 32, bank=False)]


def run(jobs: list[Job]) -> tuple[list[str], list[int], list[Job]]:
    """What was said, the counts of finished jobs, and the jobs as they ended."""
    said, counts, ended = list[str](), list[int](), list[Job]()
    executor().map(train_job, jobs, Crew(2, "students", 1e8), Hear(said.append, counts.append, ended=ended.append))
    return said, counts, ended


def results(folder: Path) -> dict[str, bytes]:
    """The files of the students."""
    names = ("0" * 32, "1" * 32, "2" * 32)
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name.startswith(names) and p.suffix != ".lock"}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the students as worker processes of this machine leave them."""
    folder = tmp_path_factory.mktemp("local") / "work"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CGANKD_ENGINE", "local")
        said, counts, ended = run(students(folder))
    assert not said and counts == [1, 2, 3] and len(ended) == 3
    return results(folder)


@pytest.mark.parametrize("shared", ["", "ray", "address"])
def test_students_of_both_engines_are_the_same_bytes(
    on_ray: None, local: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: str
) -> None:
    """Whether the worker sees the folder, or gets files by Ray's object store or by an address."""
    monkeypatch.setenv("CGANKD_SHARED", (tmp_path / "store").as_uri() if shared == "address" else shared)
    jobs = students(tmp_path / "work")
    said, counts, ended = run(jobs)
    assert counts == [1, 2, 3] and sorted(j.name for j in ended) == sorted(j.name for j in jobs)
    assert all(one.finished() for one in jobs)
    found = results(tmp_path / "work")
    assert found.keys() == local.keys() and len(found) == 15
    assert [name for name in found if found[name] != local[name]] == []
    assert [line for line in said if not line.startswith("jobs run on Ray")] == []
    locks = list((tmp_path / "work").glob("*.lock"))
    assert bool(locks) is (shared == ""), "a worker that was sent files does not work in this folder"


def small(folder: Path, number: int = 3, how: str = "", times: int = 0) -> list[SmallJob]:
    """Jobs of which the second fails so often."""
    folder.mkdir(exist_ok=True)
    (folder / "source.bin").write_bytes(str(folder).encode())  # which no node has from another test
    (folder / "notes").mkdir()
    at = folder / "source.bin", folder / "notes"
    return [
        SmallJob(n, at[0], folder / f"out-{n}.bin", str(at[1]), how if n == 1 else "", times if n == 1 else 0)
        for n in range(number)
    ]


def copied(jobs: list[SmallJob], crew: Crew = CREW) -> tuple[list[str], list[tuple[int, Any]]]:
    """What was said and told while the jobs ran."""
    said, told = list[str](), list[tuple[int, Any]]()
    hear = Hear[SmallJob](said.append, told=lambda number, what: told.append((number, what)))
    executor().map(copy, jobs, crew, hear)
    return [line for line in said if not line.startswith("jobs run on Ray")], told


def begun(jobs: list[SmallJob], number: int) -> list[str]:
    """The processes that began a job, in order."""
    return (Path(jobs[0].note) / f"began-{number}").read_text().splitlines()


@pytest.mark.parametrize("shared", ["", "ray"])
def test_a_job_whose_worker_is_killed_runs_again_and_is_there_once(
    on_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: str
) -> None:
    monkeypatch.setenv("CGANKD_SHARED", shared)
    jobs = small(tmp_path / "work", how="kill", times=1)
    said, told = copied(jobs)
    assert [one.out.read_bytes() for one in jobs] == [f"{tmp_path / 'work'}{n}".encode() for n in range(3)]
    assert len(begun(jobs, 1)) == 2 and len(begun(jobs, 0)) == len(begun(jobs, 2)) == 1
    assert sorted(said)[1:] == ["copied"] and sorted(said)[0].startswith(
        "a worker or a node was lost: its job runs again on"
    )
    assert set(told) == {(0, 1), (1, 1), (2, 1)}, "what a worker told as it died may be lost"
    left = {path.name for path in (tmp_path / "work").iterdir()}
    assert left == {"source.bin", "notes", "out-0.bin", "out-1.bin", "out-2.bin"}, "nor a mark"


def test_a_job_without_memory_gets_a_node_for_itself_and_then_ends_the_run(on_ray: None, tmp_path: Path) -> None:
    said, _ = copied(small(tmp_path / "once", how="memory", times=1))
    assert len(said) == 2 and "copied" in said
    assert min(said).startswith("a worker had no memory left: memory ran out: there was no room for more, and ")
    with pytest.raises(NoRoom, match="memory ran out"):
        copied(small(tmp_path / "twice", how="memory", times=2))


def test_a_job_that_kills_every_worker_ends_the_run_with_a_sentence(
    on_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray_module, "LOST_MOST", 1)
    jobs = small(tmp_path / "work", how="kill", times=9)
    with pytest.raises(NoRoom, match="a worker was lost 2 times at the same job of the copies"):
        copied(jobs)
    assert len(begun(jobs, 1)) == 2


def test_an_error_of_a_job_is_raised_as_it_is(on_ray: None, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        copied(small(tmp_path / "work", how="divide", times=9))


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        ({"torch": "1.0.0"}, "its torch is .*, that of this machine is 1.0.0"),
        ({"code": "f" * 64}, r"its code of cgankd \(SHA-256\) is .*, that of this machine is ffffffffffff"),
        ({"arithmetic": "armv8 NEON"}, "its arithmetic is .*, that of this machine is armv8 NEON"),
    ],
)
def test_a_worker_of_another_make_refuses(
    on_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fact: dict[str, str], words: str
) -> None:
    monkeypatch.setattr(on_ray_module, "card_of", lambda device: replace(card_of(device), **fact))
    jobs = small(tmp_path / "work")
    with pytest.raises(ConfigError, match=f"^the worker on .* refuses: {words}, .*take that node out of the cluster$"):
        copied(jobs)
    assert not list((tmp_path / "work").glob("out-*")) and not list(Path(jobs[0].note).iterdir())


@pytest.mark.parametrize("shared", ["", "ray", "address"])
def test_other_bytes_than_were_meant_are_refused(
    on_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: str
) -> None:
    """A file that changes in the shared folder meanwhile, one damaged on its way through Ray, one damaged in the store."""
    jobs, store = small(tmp_path / "work"), tmp_path / "store"
    monkeypatch.setenv("CGANKD_SHARED", store.as_uri() if shared == "address" else shared)
    words = "reached .* with other bytes than were sent"
    if shared == "":
        monkeypatch.setattr(on_ray_module, "item_of", lambda path: replace(item_of(path), digest="0" * 64))
        words = "source.bin on .* is another file than here: its SHA-256 begins with .* and not with 000000000000"
    elif shared == "ray":
        monkeypatch.setattr(ByRay, "put", lambda self, items: self.refs.update({d: ray.put(b"other!") for d in items}))
    else:
        store.mkdir()
        (store / item_of(jobs[0].source).digest).write_bytes(b"x" * jobs[0].source.stat().st_size)
    with pytest.raises(ConfigError, match=words):
        copied(jobs)
    assert not list((tmp_path / "work").glob("out-*"))


def test_a_result_that_was_damaged_on_its_way_gets_no_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"right")
    item = replace(item_of(tmp_path / "a"), path=tmp_path / "b")
    with pytest.raises(ConfigError, match="b reached this machine with other bytes than were sent"):
        place(Sent(item, b"wrong"), ByRay())
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    place(Sent(item, b"right"), ByRay())
    assert (tmp_path / "b").read_bytes() == b"right"


@contextmanager
def stopped_by(interrupt: Callable[[], None]) -> Iterator[None]:
    """What is done here ends by Ctrl-C, which a thread gives by `interrupt`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt, daemon=True)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()


def test_ctrl_c_ends_the_jobs_on_the_cluster(on_ray: None, tmp_path: Path) -> None:
    jobs = small(tmp_path / "work", 6, how="hang")
    jobs = [replace(one, how="hang") for one in jobs]
    notes, said = Path(jobs[0].note), list[str]()

    def interrupt() -> None:
        while not list(notes.glob("began-*")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    with stopped_by(interrupt):
        executor().map(copy, jobs, Crew(2, "copies"), Hear(said.append))
    began = {path.name.split("-")[1]: int(path.read_text().split()[0]) for path in notes.glob("began-*")}
    assert until(lambda: all((notes / f"ended-{n}").exists() or not start_ticks(pid) for n, pid in began.items()))
    assert {path.name for path in notes.glob("began-*")} == {f"began-{n}" for n in began}, (
        "those that waited never began"
    )
    assert len(began) < 6
    assert said[-1] == "stopping: finished runs are kept, the jobs on the cluster are cancelled"
    assert not list((tmp_path / "work").glob("out-*")) and not list((tmp_path / "work").glob(".seen-*"))


def test_records_come_home_before_a_job_ends_and_when_it_is_cancelled(
    on_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a node with a folder of its own, which may be lost at any time."""
    monkeypatch.setenv("CGANKD_SHARED", "ray")
    one = KeepingJob(**vars(small(tmp_path / "work", 1)[0]))
    home, note, seen = one.keeps()[0], Path(one.note), list[str]()

    def interrupt() -> None:
        if until(home.exists):
            seen.append(home.read_text())
        (note / "release").touch()
        until((note / "began-all").exists)
        os.kill(os.getpid(), signal.SIGINT)

    with stopped_by(interrupt):
        executor().map(record, [one], Crew(1, "records"), Hear(lambda line: None))
    assert seen == ["first\n"] and home.read_text() == "first\nsecond\n"


def test_a_head_that_is_gone_ends_the_run_with_a_sentence(
    on_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself ends the program after a minute."""
    jobs = [replace(one, how="wait", times=9) for one in small(tmp_path / "work", 2)]
    monkeypatch.setattr(heads, "LOOK_S", 0.0)
    monkeypatch.setattr(heads, "LOST_S", 0.0)
    monkeypatch.setattr(heads, "head_says", lambda address, wait_s: heads.SILENT)
    try:
        with pytest.raises(heads.HeadLost, match=r"the head .* has not answered for 0 s; what is finished is kept"):
            copied(jobs)
        assert not list((tmp_path / "work").glob(".seen-*"))
    finally:
        (tmp_path / "work" / "notes" / "release").touch()
    monkeypatch.setattr(heads, "head_says", lambda address, wait_s: heads.OPEN)
    copied(small(tmp_path / "again"))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            "LocalRayletDiedError",
            "^the raylet of this machine, .* has ended; what is finished is kept: give the same",
        ),
        ("RuntimeEnvSetupError", r"^a node of the Ray cluster could not make the code of the jobs ready \(.*it broke"),
        (
            "ActorDiedError",
            "^the process on this machine that hears of progress has ended .*; what is finished is kept: look",
        ),
        ("ObjectStoreFullError", "^Ray's object store has no room .*; what is finished is kept: give `ray start` more"),
        (
            "RaySystemError",
            r"^the Ray cluster failed \(RaySystemError: .*it broke\); what is finished is kept: look",
        ),
    ],
)
def test_an_error_of_the_cluster_itself_is_a_sentence(
    on_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: str
) -> None:
    """Also where all that is asked of Ray fails, while jobs are cancelled."""
    copied(small(tmp_path / "before", 1))  # joins the cluster
    what = {"LocalRayletDiedError": (), "ActorDiedError": ()}.get(kind, ("it broke",))

    def broken(*asked: Any, **options: Any) -> None:
        raise getattr(ray.exceptions, kind)(*what)

    monkeypatch.setattr(ray, "get", broken)
    with pytest.raises(ConfigError, match=words):
        copied(small(tmp_path / "work"))
    assert not list((tmp_path / "work").glob(".seen-*"))


def test_what_no_node_has_is_refused_at_once(on_ray: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="each of the copies needs 1000 CPU, but no node of the Ray cluster has more"):
        copied(small(tmp_path / "work"), Crew(2, "copies", cores=1000))
    with pytest.raises(ConfigError, match="each of the copies needs 99 GPU"):
        copied(small(tmp_path / "again"), Crew(2, "copies", gpus=99))


def test_ray_leaves_the_signals_of_the_program_alone(on_ray: None, tmp_path: Path) -> None:
    ray.shutdown()

    def own(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, own)
    try:
        copied(small(tmp_path / "work", 1))
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
