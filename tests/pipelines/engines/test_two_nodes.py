"""Two Ray nodes of this machine that share no folder: code and files reach them, and a node that is lost is made up for."""

from __future__ import annotations

import io
import os
import platform
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from rich.console import Console

from cgankd.config import ConfigError
from pipelines.engines import cluster
from pipelines.engines.choice import executor
from pipelines.engines.cluster import QUIET
from pipelines.engines.executor import Hear
from pipelines.engines.heads import LOOPBACK
from pipelines.engines.local import Crew
from pipelines.files.digests import file_digest
from pipelines.project.doctor_room import look_at_cluster
from pipelines.repeat.shard_jobs import draw_shards
from pipelines.runtime.bonds import start_ticks
from pipelines.search import run as search
from pipelines.search import study as studies
from pipelines.tracking.journal import read_roots
from tests.conftest import ROOT
from tests.pipelines.engines.small_jobs import SmallJob, copy
from tests.pipelines.search.test_run import run_stage, settings
from tests.tiny import write_params

for name, value in LOOPBACK.items():
    os.environ.setdefault(name, value)  # before Ray is imported
ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'cgankd[ray]')")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head without cores and two nodes of one core each; this process is a machine beside them."""
    from ray.cluster_utils import Cluster

    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        # The jobs of these tests are no part of the code that is sent; nothing else of this folder is to be found.
        only_tests = tmp_path_factory.mktemp("only")
        (only_tests / "tests").symlink_to(ROOT / "tests")
        patch.setenv("PYTHONPATH", str(only_tests))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        # In a folder that nodes of one host share, each node that unpacks the code deletes it under the others' workers.
        own = [stack.enter_context(TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)) for _ in range(2)]
        nodes = [cluster.add_node(num_cpus=1, temp_dir=folder) for folder in own]
        patch.setenv("CGANKD_ENGINE", "ray")
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster, nodes
        ray.shutdown()
        cluster.shutdown()


def jobs_of(folder: Path, number: int, how: str = "") -> list[SmallJob]:
    folder.mkdir()
    (folder / "notes").mkdir()
    (folder / "source.bin").write_bytes(str(folder).encode())
    at = folder / "source.bin", folder / "notes"
    return [SmallJob(n, at[0], folder / f"out-{n}.bin", str(at[1]), how) for n in range(number)]


def test_the_doctor_shows_every_node(two: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = look_at_cluster(tmp_path)
    assert [one.level for one in found] == ["ok"] * 4, found
    assert f"at {os.environ['RAY_ADDRESS']}: 3 nodes, 2 cores" in found[0].text
    nodes = [one.text for one in found[1:]]
    assert sum(": 1 cores, " in text for text in nodes) == 2 and sum(": 0 cores, " in text for text in nodes) == 1
    assert all(
        f"; Python {platform.python_version()}, torch {torch.__version__}, code " in text
        and text.endswith("; sees this folder")
        for text in nodes
    )
    monkeypatch.setenv("CGANKD_SHARED", "ray")
    assert all(one.text.endswith("; gets files by ray") for one in look_at_cluster(tmp_path)[1:])
    monkeypatch.setenv("CGANKD_SHARED", "nowhere://x")
    (only,) = look_at_cluster(tmp_path)
    assert only.level == "problem" and "CGANKD_SHARED is nowhere://x, which cannot be opened" in only.text
    assert not list((tmp_path / "artifacts").iterdir())


def test_what_jobs_tell_is_heard_on_the_own_node(two: Any, tmp_path: Path) -> None:
    """Another node that is lost must not take along what was told."""
    look_at_cluster(tmp_path)  # joins the cluster
    for _ in range(4):
        cluster._ears.clear()
        ear = cluster.ear(ray)
        assert (
            ray.get(ear.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()))
            == ray.get_runtime_context().get_node_id()
        )


def test_a_search_runs_on_nodes_that_do_not_see_its_folder(
    two: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CGANKD_THREADS", "1")
    monkeypatch.setenv("CGANKD_SHARED", "ray")
    work, shown = tmp_path / "work", io.StringIO()
    work.mkdir()
    write_params(work, settings(num_trials=4, rungs=0))  # which trials are pruned would hang on their order
    for stage in ("prepare", "teacher", "cgan", "ratio"):
        run_stage(work, stage)
    with pytest.raises(ConfigError, match=r"SQLite is a file: give one of PostgreSQL by --storage"):
        search.run(search.open_search(work)[0], 2, Console(file=shown))
    monkeypatch.setattr(search.Worker, "stays", None)  # on one machine the file of this database is seen by both
    torch.set_num_threads(2)  # CGANKD_THREADS is what counts
    found = search.open_search(work, storage=f"sqlite:///{tmp_path}/study.db")[0]
    search.run(found, 2, Console(file=shown, width=200))
    trials = [t for t in found.study().get_trials() if t.state in studies.COUNTED]
    assert len(trials) == 4 and len({t.user_attrs["owner"] for t in trials}) == 2
    assert len({str(t.params) for t in trials}) == 4, "no values were drawn twice"
    assert shown.getvalue().count("trial ") >= 4 and "4 trials" in shown.getvalue()
    assert not (work / "artifacts/search/pools").exists(), "the fakes were drawn elsewhere"
    records = sorted((work / "artifacts/logs").glob("search-*.jsonl"))
    begun = [event for path in records for events in read_roots(path).values() for event in events]
    assert (
        len(records) == 2
        and sum("optuna.trial" in event.get("tags", {}) for event in begun if event["kind"] == "run") == 4
    )

    draw_shards(work, 2, (), Console(file=shown, width=200))  # of a bank, likewise
    assert not (work / "artifacts/resume/bank-0-of-2.lock").exists(), "drawn elsewhere"
    assert len(list(work.glob("artifacts/shards/*/manifest.json"))) == 2
    run_stage(work, "bank")
    assert not (work / "artifacts/shards").exists(), "taken and forgotten"
    files = [work / "artifacts" / name for name in ("pool.h5", "bank.h5")]
    by_nodes = [file_digest(path) for path in files]

    monkeypatch.delenv("CGANKD_ENGINE")
    shutil.rmtree(work / "artifacts/resume/bank")
    for path in files:
        path.unlink()
    run_stage(work, "bank")
    assert [file_digest(path) for path in files] == by_nodes
    here = search.open_search(work, ["search.num_trials=1"], storage=f"sqlite:///{tmp_path}/here.db")[0]
    search.run(here, 1, Console(file=shown))
    (first,) = here.study().get_trials()
    there = next(t for t in trials if t.params == first.params)
    assert there.user_attrs["val"] == first.user_attrs["val"] and (work / "artifacts/search/pools").exists()


def test_jobs_of_a_lost_node_run_on_the_other_and_are_there_once(
    two: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, nodes = two
    look_at_cluster(tmp_path)  # joins the cluster
    mine = ray.get_runtime_context().get_node_id()
    victim = next(node for node in nodes if node.node_id != mine)  # on one host a program joins any of the nodes
    monkeypatch.setenv("CGANKD_SHARED", "ray")
    jobs = [SmallJob(**(vars(job) | {"how": "wait", "times": 99})) for job in jobs_of(tmp_path / "work", 4)]
    said, ended = list[str](), list[SmallJob]()

    def lose_one() -> None:
        begun: list[str] = []
        while len(begun) < 2:
            time.sleep(0.05)
            noted = [path.read_text() for path in (tmp_path / "work" / "notes").glob("began-*")]
            begun = [line for line in noted if line.endswith("\n")]  # some may have been begun and not written yet
        (pid,) = (int(line.split()[0]) for line in begun if f"/{victim.node_id}/" in line)
        both.remove_node(victim, allow_graceful=False)
        while start_ticks(pid):  # it might else finish its job before it notices
            time.sleep(0.05)
        (tmp_path / "work" / "notes" / "release").touch()

    thread = threading.Thread(target=lose_one, daemon=True)
    thread.start()
    executor().map(copy, jobs, Crew(1, "copies"), Hear(said.append, ended=ended.append))
    thread.join()
    assert [job.out.read_bytes() for job in jobs] == [f"{tmp_path / 'work'}{n}".encode() for n in range(4)]
    assert sorted(job.number for job in ended) == [0, 1, 2, 3]
    lost = [line for line in said if line.startswith("a worker or a node was lost: its job runs again on ")]
    began = {p.name: p.read_text().splitlines() for p in (tmp_path / "work/notes").glob("began-*")}
    assert len(lost) == 1, said
    assert sorted(map(len, began.values())) == [1, 1, 1, 2]
    places = {line.split()[1] for lines in began.values() for line in lines}
    tops = {place.partition("/tree/")[0] for place in places}
    assert len(tops) == 2 and not any(place.startswith(str(tmp_path)) for place in places), "a folder of its own each"
    codes = {line.split()[2] for lines in began.values() for line in lines}
    assert len(codes) == 2 and all("/runtime_resources/" in code for code in codes), "the code came with the jobs"
