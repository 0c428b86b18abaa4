"""A run that was left unfinished goes on as the same run of the store, whatever became of process and store."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cgankd.config import TrackingConfig
from pipelines.tracking.journal import Tracker
from pipelines.tracking.open import open_tracker
from pipelines.tracking.sync import SyncReport, sync
from tests.conftest import ROOT
from tests.pipelines.tracking.test_mlflow_sink import dead_server, runs


def open_work(folder: Path, work: str = "one", said: list[str] | None = None) -> Tracker:
    lock = folder / "artifacts" / "resume" / "repeat.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    cfg = TrackingConfig(experiment="cgankd", preset="digits", mlflow=True)
    say = (said if said is not None else []).append
    tracker = open_tracker(folder, "repeat", cfg, tags={}, lock=lock, say=say, work=work)
    tracker.params({"seed": 0, "student.num_steps": 12})
    return tracker


def draw(tracker: Tracker, seed: int, *stages: str) -> Tracker:
    child = tracker.child(f"draw {seed}", {"seed": seed}, {"draw": str(seed)}, again=True)
    for stage in stages:
        below = child.child(stage, {}, {"draw.stage": stage})
        below.curve("loss", [(0, 1.0), (1, 0.5)])
        below.close("FINISHED")
    return child


def first_part(folder: Path) -> None:
    tracker = open_work(folder)
    draw(tracker, 0, "teacher", "student").close("FINISHED")
    draw(tracker, 1, "teacher").child("student", {}, {"draw.stage": "student"})


def second_part(folder: Path) -> list[str]:
    said: list[str] = []
    tracker = open_work(folder, said=said)
    for seed, stages in ((0, ()), (1, ("student",))):
        child = draw(tracker, seed, *stages)
        child.metrics({"test/real": 1.0 + seed})
        child.close("FINISHED")
    tracker.metrics({"gain": 2.0})
    tracker.close("FINISHED")
    return said


PART = """
import os, sys
from pathlib import Path
from tests.pipelines.tracking.test_taken_up import first_part
first_part(Path(sys.argv[1]))
os.kill(os.getpid(), 9)
"""


def killed(folder: Path, **env: str) -> None:
    """The first part in a process that is killed with its runs open."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | env
    assert subprocess.run([sys.executable, "-c", PART, str(folder)], env=environment, cwd=folder).returncode == -9


def tree(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Name of each run with a run below it -> name and status of those."""
    every = runs(folder)
    names = {run.info.run_id: str(run.info.run_name) for run in every}
    found: dict[str, list[tuple[str, str]]] = {}
    for run in every:
        above = names.get(run.data.tags.get("mlflow.parentRunId", ""), "")
        found.setdefault(above, []).append((names[run.info.run_id], str(run.info.status)))
    return {above: sorted(below) for above, below in found.items()}


WHOLE: dict[str, Any] = {
    "": [("digits/repeat", "FINISHED")],
    "digits/repeat": [("digits/draw 0", "FINISHED"), ("digits/draw 1", "FINISHED")],
    "digits/draw 0": [("digits/student", "FINISHED"), ("digits/teacher", "FINISHED")],
    # the stage that was killed stays beside the one that ended well
    "digits/draw 1": [("digits/student", "FAILED"), ("digits/student", "FINISHED"), ("digits/teacher", "FINISHED")],
}


def test_a_killed_run_goes_on_as_the_same_run(store: Path) -> None:
    killed(store)
    assert {run.info.status for run in runs(store)} == {"RUNNING", "FINISHED"}
    before = {run.info.run_id for run in runs(store)}
    assert any("goes on" in line for line in second_part(store))
    assert tree(store) == WHOLE
    after = {run.info.run_id: run for run in runs(store)}
    assert len(after.keys() - before) == 1 and before <= after.keys()
    (root,) = (run for run in after.values() if run.info.run_name == "digits/repeat")
    assert root.data.metrics["gain"] == 2.0 and root.data.tags["taken_up"] == "1"
    assert sync(store) == SyncReport(added=0, there=1, running=0)
    assert tree(store) == WHOLE


def test_a_run_that_goes_on_is_under_way_in_the_store(store: Path) -> None:
    tracker = open_work(store)
    tracker.close("FAILED")
    again = open_work(store)
    (run,) = runs(store)
    assert (again.run, run.info.status) == (tracker.run, "RUNNING")
    again.close("FINISHED")
    assert [run.info.status for run in runs(store)] == ["FINISHED"]


@pytest.mark.parametrize("away", ["first", "second", "both"])
def test_a_store_that_did_not_answer_gets_the_whole_run(
    store: Path, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    address = {"MLFLOW_TRACKING_URI": dead_server()}
    killed(store, **(address if away in ("first", "both") else {}))
    with monkeypatch.context() as patch:
        if away in ("second", "both"):
            patch.setenv(*address.popitem())
        second_part(store)
    assert sync(store) == SyncReport(added=int(away != "first"), there=int(away == "first"), running=0)
    assert tree(store) == WHOLE
    assert sync(store) == SyncReport(added=0, there=1, running=0)


def test_a_late_end_reaches_the_store_although_no_run_is_new(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was left to do is in runs that the store had whole, marked as such."""
    open_work(store).close("FAILED")
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", dead_server())
        tracker = open_work(store)
        tracker.metrics({"gain": 2.0})
        tracker.close("FINISHED")
    assert [run.info.status for run in runs(store)] == ["FAILED"]
    assert sync(store).added == 1
    (run,) = runs(store)
    assert run.info.status == "FINISHED" and run.data.metrics["gain"] == 2.0
    assert sync(store) == SyncReport(added=0, there=1, running=0)


def test_a_lost_store_gets_the_parts_of_a_run_in_one(store: Path, empty_store: Path) -> None:
    killed(store)
    shutil.rmtree(store / "mlruns", ignore_errors=True)
    shutil.copyfile(empty_store, store / "mlflow.db")
    second_part(store)
    assert tree(store) == WHOLE
    shutil.rmtree(store / "mlruns", ignore_errors=True)
    shutil.copyfile(empty_store, store / "mlflow.db")
    assert sync(store).added == 1 and tree(store) == WHOLE


def test_other_work_and_work_that_is_done_have_runs_of_their_own(store: Path) -> None:
    open_work(store).close("FAILED")
    open_work(store, "other").close("FINISHED")
    assert len(runs(store)) == 2
    open_work(store).close("FINISHED")
    assert len(runs(store)) == 2 and {run.info.status for run in runs(store)} == {"FINISHED"}
    open_work(store).close("FINISHED")
    assert len(runs(store)) == 3
