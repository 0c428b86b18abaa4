from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image

from cgankd.config import TrackingConfig
from pipelines.runtime.opening import open_context
from pipelines.tracking import answers
from pipelines.tracking.journal import JsonLines, Tracker, is_closed, read_roots
from pipelines.tracking.names import VIEWS, evaluate_names, result_name, view_links
from pipelines.tracking.open import open_tracker
from pipelines.tracking.places import home, last_run, log_folder, store_uri
from pipelines.tracking.sync import SyncReport, sync


def open_run(folder: Path, said: list[str] | None = None, stage: str = "cgan") -> Tracker:
    lock = folder / "artifacts" / "resume" / f"{stage}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    say = (said if said is not None else []).append
    cfg = TrackingConfig(experiment="cgankd", preset="digits", mlflow=True)
    return open_tracker(folder, stage, cfg, tags={}, lock=lock, say=say)


def runs(folder: Path) -> list[Any]:
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("cgankd")
    return list(client.search_runs([experiment.experiment_id], order_by=["start_time ASC"])) if experiment else []


def dead_server() -> str:
    """An address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def fill(tracker: Tracker, folder: Path) -> None:
    picture = folder / "plots" / "cgan" / "samples.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (200, 30, 30)).save(picture)
    tracker.params({f"cgan.key{i}": i for i in range(130)} | {"long": "x" * 9000})
    tracker.curve("gan/loss", [(i, 1.0 / (i + 1)) for i in range(2500)])
    tracker.metrics({"val": 3.5, "bad name (%)": 1.0})
    tracker.picture(picture, step=12)
    tracker.dataset("dataset.h5", "ab" * 32, "training")
    tracker.tags({"input.dataset.h5": "abab"})
    child = tracker.child("raw-0", {"arm": "raw"}, {"arm": "raw"})
    child.curve("val", [(1, 9.0), (2, 8.0)])
    child.close("FINISHED")


def check(folder: Path, status: str = "FINISHED") -> None:
    """The store of a folder holds exactly what `fill` reports."""
    root, child = runs(folder)
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    assert (root.info.run_name, root.info.status, child.info.status) == ("digits/cgan", status, "FINISHED")
    assert len(root.data.params) == 131 and root.data.params["cgan.key7"] == "7"
    history = client.get_metric_history(root.info.run_id, "gan/loss")
    assert sorted((m.step, m.value) for m in history) == [(i, 1.0 / (i + 1)) for i in range(2500)]
    assert root.data.metrics["val"] == 3.5 and root.data.metrics["bad name ___"] == 1.0
    tags = root.data.tags
    assert (tags["stage"], tags["preset"], tags["input.dataset.h5"]) == ("cgan", "digits", "abab")
    (dataset,) = root.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("dataset.h5", ("ab" * 32)[:12])
    assert [f.path for f in client.list_artifacts(root.info.run_id, "pictures")] == ["pictures/samples.png"]
    images = [f.path for f in client.list_artifacts(root.info.run_id, "images")]
    assert len(images) == 2 and all(path.startswith("images/cgan~samples+step+12+timestamp+") for path in images)
    assert tags["mlflow.loggedImages"] == "True" and tags["mlflow.source.name"] == "cgankd cgan"
    assert tags["series"] == child.data.tags["series"] == "digits"
    assert (tags["level"], child.data.tags["level"], child.info.run_name) == ("stage", "child", "digits/raw-0")
    assert child.data.tags["mlflow.parentRunId"] == root.info.run_id and child.data.tags["arm"] == "raw"
    assert [m.value for m in client.get_metric_history(child.info.run_id, "val")] == [9.0, 8.0]


def test_a_run_reaches_mlflow_whole(store: Path) -> None:
    said: list[str] = []
    tracker = open_run(store, said)
    fill(tracker, store)
    tracker.close("FINISHED")
    check(store)
    assert said == []
    note = last_run(store, "cgan")
    assert note is not None and note["state"] == "complete" and note["mlflow_run"] == runs(store)[0].info.run_id
    assert (store / "mlruns").is_dir() and sync(store) == SyncReport(added=0, there=1, running=0)


def test_the_experiment_gets_ready_made_views_once(store: Path) -> None:
    open_run(store).close("FINISHED")
    client = MlflowClient(tracking_uri=store_uri(store))
    experiment = client.get_experiment_by_name("cgankd")
    view = json.loads(experiment.tags["mlflow.sharedViewState.results"])
    assert view["searchFilter"] == "tags.stage = 'evaluate'" and "metrics.`best/test`" in view["selectedColumns"]
    for name in VIEWS:
        found = json.loads(experiment.tags[f"mlflow.sharedViewState.{name}"])["searchFilter"]
        client.search_runs([experiment.experiment_id], found)  # raises on a filter MLflow does not know
    client.set_experiment_tag(experiment.experiment_id, "mlflow.note.content", "mine")
    open_run(store).close("FINISHED")
    assert client.get_experiment_by_name("cgankd").tags["mlflow.note.content"] == "mine"
    links = view_links("http://127.0.0.1:5000/", experiment.experiment_id)
    assert (
        links["results"]
        == f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs?viewStateShareKey=results"
    )


def test_an_unreachable_server_stops_nothing_and_sync_adds_the_run(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead_server())
    tracker = open_run(store, said)
    fill(tracker, store)
    tracker.close("FINISHED")
    assert len(said) == 1 and "MLflow failed" in said[0] and "cgankd sync" in said[0]
    with pytest.raises(Exception, match="refused|Max retries"):
        sync(store)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert sync(store) == SyncReport(added=1, there=0, running=0)
    check(store)
    (events,) = read_roots(log_folder(store) / "cgan.jsonl").values()
    run = runs(store)[0]
    assert (run.info.start_time, run.info.end_time) == (events[0]["time_ms"], events[-2]["time_ms"])
    sent = next(e["time_ms"] for e in events if e["kind"] == "curve")
    points = MlflowClient(tracking_uri=store_uri(store)).get_metric_history(run.info.run_id, "gan/loss")
    assert {point.timestamp for point in points} == {sent}
    assert sync(store) == SyncReport(added=0, there=1, running=0)
    assert len(runs(store)) == 2


def test_mlflow_failing_midway_is_said_once_and_sync_completes_the_same_run(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    tracker = open_run(store, said)

    def gone(*args: object, **kwargs: object) -> None:
        raise ConnectionError("server went away")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", gone)
        tracker.params({"cgan.key0": 0})
    fill(tracker, store)
    tracker.close("FINISHED")
    assert len(said) == 1 and "server went away" in said[0]
    assert [r.info.status for r in runs(store)] == ["RUNNING"]
    assert sync(store) == SyncReport(added=1, there=0, running=0)
    check(store)


KILLED = """
import os, sys
from pathlib import Path
from tests.pipelines.tracking.test_mlflow_sink import fill, open_run
folder = Path(sys.argv[1])
fill(open_run(folder), folder)
os.kill(os.getpid(), 9)
"""


def test_a_killed_run_is_marked_failed_when_the_stage_starts_again(store: Path) -> None:
    root = Path(__file__).parents[3]
    env = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(store)], env=env, cwd=store)
    assert done.returncode == -9 and runs(store)[0].info.status == "RUNNING"
    path = log_folder(store) / "cgan.jsonl"
    assert not any(is_closed(events) for events in read_roots(path).values())
    second = open_run(store)
    assert [r.info.status for r in runs(store)] == ["FAILED", "FINISHED", "RUNNING"]
    second.close("FINISHED")
    assert sync(store) == SyncReport(added=0, there=2, running=0)


def test_sync_leaves_a_run_that_is_under_way_alone(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", dead_server())
        with open_context("teacher", workdir=store) as ctx:
            patch.delenv("MLFLOW_TRACKING_URI")
            ctx.metrics({"val": 1.0})
            assert sync(store) == SyncReport(added=0, there=0, running=1)
    assert sync(store) == SyncReport(added=1, there=0, running=0)
    (run,) = runs(store)
    assert run.info.status == "FINISHED" and run.data.metrics["result/val"] == 1.0


def test_a_log_that_cannot_be_written_stops_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    tracker = open_run(store, said)

    def full(self: JsonLines, event: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(JsonLines, "apply", full)
    tracker.metrics({"val": 1.0})
    tracker.metrics({"val": 2.0})
    assert len(said) == 1 and "No space left" in said[0] and runs(store)[0].data.metrics["val"] == 2.0


def test_a_dvc_experiment_in_a_copy_keeps_its_runs_in_the_main_repository(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = store / ".dvc" / "tmp" / "exps" / "standalone" / "tmpabc"
    copy.mkdir(parents=True)
    monkeypatch.setenv("DVC_EXP_NAME", "lr02")
    assert home(copy) == store and store_uri(copy) == f"sqlite:///{store / 'mlflow.db'}"
    tracker = open_run(copy)
    tracker.close("FINISHED")
    (run,) = runs(store)
    assert run.info.run_name == "lr02/cgan" and run.data.tags["dvc.exp_name"] == "lr02"
    assert (store / "artifacts" / "logs" / "lr02" / "cgan.jsonl").exists()
    shutil.rmtree(copy)
    assert sync(store) == SyncReport(added=0, there=1, running=0)
    assert not (copy / "mlflow.db").exists()


def test_the_users_server_and_environment_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://example.invalid:1")
    assert store_uri(tmp_path) == "http://example.invalid:1"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with answers.environment(answers.first_patience()):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_names_of_results_keep_apart_from_curves_and_group_in_sections() -> None:
    assert result_name("val") == "result/val" and result_name("filter.kept") == "result/filter.kept"
    assert result_name("health.bound.ok") == "health/bound.ok"
    arms = {
        "real": {"mean": 14.0, "sd": 1.0, "val_mean": 15.0},
        "raw": {"mean": 12.0, "sd": 0.5, "val_mean": 13.0, "gain": 2.0, "gain_low": 1.0, "gain_high": 3.0},
    }
    assert evaluate_names({"teacher": 9.0, "teacher_val": 10.0, "arms": arms, "chosen_arm": "raw"}) == {
        **{"test/teacher": 9.0, "val/teacher": 10.0, "best/test": 12.0, "best/val": 13.0, "best/gain": 2.0},
        **{"test/real": 14.0, "test_sd/real": 1.0, "val/real": 15.0},
        **{"test/raw": 12.0, "test_sd/raw": 0.5, "val/raw": 13.0},
        **{"gain/raw": 2.0, "gain/raw.low": 1.0, "gain/raw.high": 3.0},
    }
