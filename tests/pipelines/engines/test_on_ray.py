"""The same jobs on a Ray of this machine: equal bytes, lost workers, refusals, Ctrl-C. Skipped where Ray is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.engines.executor import Hear, executor
from pipelines.engines.local import Crew
from pipelines.students.run_arm import Job, train_job
from tests.distill.arms import job, settings, workplace

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'cgankd[ray]')")


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
