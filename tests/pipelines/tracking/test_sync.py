"""After `cgankd sync` the store of now has every run of the records, once and whole, whatever befell it before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import ViewType

from cgankd.config import ConfigError
from pipelines.tracking.journal import JsonLines, Tracker, read_roots
from pipelines.tracking.places import log_folder
from pipelines.tracking.sync import SyncReport, replaying, sync
from tests.pipelines.tracking.test_mlflow_sink import open_run, runs

WRITES = ("create_run", "log_batch", "log_artifact", "log_image", "log_inputs", "set_terminated", "set_tag")


def one(folder: Path, name: str, stage: str = "cgan", said: list[str] | None = None) -> Tracker:
    """A run with a curve, settings, a picture of its own, a file, a data set and two children; not closed yet."""
    from PIL import Image

    tracker = open_run(folder, said, stage)
    picture = folder / "plots" / stage / f"{name}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (len(name), 30, 30)).save(picture)
    (folder / f"{name}.txt").write_text(name)
    tracker.params({"name": name, "width": 3})
    tracker.curve("loss", [(step, 1.0 / (step + 1)) for step in range(5)])
    tracker.picture(picture, step=3)
    tracker.file(folder / f"{name}.txt")
    tracker.dataset("dataset.h5", "ab" * 32, "training")
    for seed in range(2):
        child = tracker.child(f"{name}-{seed}", {"seed": seed}, {"seed": str(seed)})
        child.curve("val", [(1, 9.0), (2, 8.0)])
        child.close("FINISHED")
    tracker.metrics({"val": 3.5})
    return tracker


def content(folder: Path, file: Path | None = None) -> list[Any]:
    """All that a store has of the runs, without its own numbers, sorted."""
    client = MlflowClient(tracking_uri=f"sqlite:///{file or folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("cgankd")
    if experiment is None:
        return []
    found = []
    every = client.search_runs([experiment.experiment_id])
    names = {run.info.run_id: run.data.tags["cgankd.run"] for run in every}
    for run in every:
        tags = {k: v for k, v in run.data.tags.items() if k not in ("mlflow.parentRunId", "cgankd.whole")}
        series = {
            key: sorted((m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, key))
            for key in run.data.metrics
        }
        files = [
            [entry.path.partition("timestamp")[0] for entry in client.list_artifacts(run.info.run_id, place)]
            for place in ("pictures", "files", "images")
        ]
        data = [entry.dataset.name for entry in run.inputs.dataset_inputs] if run.inputs else []
        above = names.get(run.data.tags.get("mlflow.parentRunId", ""))
        found.append([run.info.run_name, run.info.status, above, tags, dict(run.data.params), series, files, data])
    return sorted(found, key=lambda entry: json.dumps(entry))


@pytest.fixture()
def full(store: Path) -> Path:
    """A project with two runs of two children each, all whole in the store."""
    for name in ("first", "second"):
        one(store, name).close("FINISHED")
    assert len(runs(store)) == 6
    return store


def fresh(folder: Path, empty_store: Path) -> None:
    """The store is lost, and its files with it."""
    shutil.rmtree(folder / "mlruns")
    shutil.copyfile(empty_store, folder / "mlflow.db")


def test_a_lost_store_gets_every_run_again(full: Path, empty_store: Path) -> None:
    before = content(full)
    fresh(full, empty_store)
    assert sync(full) == SyncReport(added=2, there=0, running=0)
    assert content(full) == before
    assert sync(full) == SyncReport(added=0, there=2, running=0) and content(full) == before


def test_another_store_gets_every_run_and_the_first_one_is_known_again(
    full: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, other = content(full), full / "other.db"
    shutil.copyfile(empty_store, other)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
        assert sync(full) == SyncReport(added=2, there=0, running=0)
        assert content(full, other) == before and sync(full).there == 2
    assert sync(full) == SyncReport(added=0, there=2, running=0) and content(full) == before


def test_a_store_of_an_earlier_day_gets_what_came_later(store: Path) -> None:
    one(store, "first").close("FINISHED")
    shutil.copyfile(store / "mlflow.db", store / "backup")
    late = one(store, "second")
    shutil.copyfile(store / "mlflow.db", store / "midway")
    late.close("FINISHED")
    before = content(store)
    for earlier in ("backup", "midway"):
        shutil.copyfile(store / earlier, store / "mlflow.db")
        assert sync(store) == SyncReport(added=1, there=1, running=0), earlier
        assert content(store) == before


def test_lost_files_are_brought_again(full: Path) -> None:
    before = content(full)
    shutil.rmtree(full / "mlruns")
    assert sync(full).added == 2 and content(full) == before
    next((full / "mlruns").rglob("first.txt")).unlink()
    assert sync(full) == SyncReport(added=1, there=1, running=0) and content(full) == before


class Cut(BaseException):
    """The process is killed here."""


def dying_at(moment: int, error: type[BaseException], after: bool) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Each way to write to a store, made to fail at the n-th call of all, before or after the store has it."""
    left = [moment]
    for name in WRITES:
        real = getattr(MlflowClient, name)

        def write(*args: Any, real: Callable[..., Any] = real, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise error("gone")
            if left[0] == 0:
                if after:
                    real(*args, **options)
                raise error("gone")
            return real(*args, **options)

        yield name, write


@pytest.mark.parametrize("after", [False, True])
def test_a_sync_that_is_killed_anywhere_is_taken_up(
    after: bool, store: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    one(store, "first", said=said).close("FINISHED")
    assert said == []
    before = content(store)
    fresh(store, empty_store)
    cuts = 0
    for number, moment in enumerate((1, 4, 7, 8, 11, 14, 15)):
        with monkeypatch.context() as patch:
            for name, write in dying_at(moment, Cut if number % 2 else ConnectionError, after):
                patch.setattr(MlflowClient, name, write)
            try:
                sync(store)
            except (Cut, ConnectionError):
                cuts += 1
    assert cuts >= 3
    sync(store)
    assert content(store) == before and sync(store) == SyncReport(added=0, there=1, running=0)


@pytest.mark.parametrize("moment", [1, 3, 8, 12, 20])
def test_a_store_that_dies_while_training_is_made_whole(
    moment: int, store: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with monkeypatch.context() as patch:
        for name, write in dying_at(moment, ConnectionError, after=bool(moment % 2)):
            patch.setattr(MlflowClient, name, write)
        one(store, "first", said=said).close("FINISHED")
    assert len(said) == 1 and "gone" in said[0]
    assert sync(store) == SyncReport(added=1, there=0, running=0)
    found = content(store)
    fresh(store, empty_store)
    assert sync(store).added == 1 and content(store) == found and len(found) == 3


def test_two_projects_with_one_store(
    store: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, shared = tmp_path_factory.mktemp("other"), tmp_path_factory.mktemp("shared") / "runs.db"
    shutil.copyfile(empty_store, shared)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shared}")
    for folder, name in ((store, "first"), (other, "first"), (store, "second")):
        one(folder, name).close("FINISHED")
    before = content(store, shared)
    assert len(before) == 9 and (sync(store).there, sync(other).there) == (2, 1)
    shutil.copyfile(empty_store, shared)
    assert sync(other) == SyncReport(added=1, there=0, running=0)
    assert sync(store) == SyncReport(added=2, there=0, running=0)
    assert content(store, shared) == before


def test_a_run_that_stands_twice_is_left_once(full: Path) -> None:
    before = content(full)
    client = MlflowClient(tracking_uri=f"sqlite:///{full / 'mlflow.db'}")
    root = next(run for run in runs(full) if "mlflow.parentRunId" not in run.data.tags)
    client.create_run(root.info.experiment_id, root.info.start_time, {"cgankd.run": root.data.tags["cgankd.run"]}, "x")
    assert sync(full) == SyncReport(added=1, there=1, running=0) and content(full) == before


def test_what_the_user_deleted_stays_deleted(full: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{full / 'mlflow.db'}")
    root = next(run for run in runs(full) if "mlflow.parentRunId" not in run.data.tags)
    client.delete_run(root.info.run_id)
    assert sync(full) == SyncReport(added=0, there=2, running=0)
    gone = client.search_runs([root.info.experiment_id], "", ViewType.DELETED_ONLY)
    assert [run.info.run_id for run in gone] == [root.info.run_id]


def test_a_file_that_a_later_run_wrote_over_is_not_taken_for_the_earlier_one(store: Path, empty_store: Path) -> None:
    for text in ("old", "new"):
        tracker = open_run(store)
        (store / "result.txt").write_text(text)
        tracker.file(store / "result.txt")
        tracker.close("FINISHED")
    fresh(store, empty_store)
    done = sync(store)
    assert done == SyncReport(added=2, there=0, running=0, lost=1) and "1 of their files are gone" in done.text
    assert [path.read_text() for path in (store / "mlruns").rglob("result.txt")] == ["new"]
    assert sync(store) == SyncReport(added=0, there=2, running=0)


def test_damaged_lines_are_counted_and_the_rest_is_added(full: Path, empty_store: Path) -> None:
    path = log_folder(full) / "cgan.jsonl"
    lines = path.read_text().splitlines()
    begun = [i for i, line in enumerate(lines) if '"kind": "run"' in line and '"parent"' in line]
    lines[begun[0]] = lines[begun[0]][:40]
    curve = next(i for i, line in enumerate(lines) if '"kind": "curve"' in line)
    lines[curve] = json.dumps(json.loads(lines[curve]) | {"points": "none"})
    path.write_text("\n".join([*lines, "[1, 2]", '{"kind": 7}', "\x00\x00", "[" * 5000]) + "\n")
    fresh(full, empty_store)
    done = sync(full)
    assert done == SyncReport(added=2, there=0, running=0, damaged=6) and "6 lines of artifacts/logs" in done.text
    assert len(runs(full)) == 5 and sync(full).there == 2


def test_records_of_an_earlier_version_are_known(full: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{full / 'mlflow.db'}")
    for run in runs(full):
        if "cgankd.whole" in run.data.tags:
            client.delete_tag(run.info.run_id, "cgankd.whole")
    assert sync(full) == SyncReport(added=0, there=2, running=0)


def test_two_at_once_do_not_add_twice(full: Path, empty_store: Path) -> None:
    fresh(full, empty_store)
    with FileLock(replaying(full).lock_file):
        with pytest.raises(ConfigError, match="another process is adding runs"):
            sync(full)
    assert sync(full).added == 2


def test_a_run_under_way_is_left_to_its_process(full: Path, empty_store: Path) -> None:
    fresh(full, empty_store)
    one(full, "third")
    lock = full / "artifacts" / "resume" / "cgan.lock"
    with FileLock(lock):
        assert sync(full) == SyncReport(added=2, there=0, running=1)
    done = sync(full)
    assert done == SyncReport(added=1, there=2, running=0), "its process is gone"


def test_records_without_mlflow_open_no_store(workdir: Path) -> None:
    Tracker(JsonLines(log_folder(workdir) / "cgan.jsonl"), "cgan", {"mlflow": False}).close("FINISHED")
    assert sync(workdir) == SyncReport(added=0, there=0, running=0) and not (workdir / "mlflow.db").exists()
    assert len(read_roots(log_folder(workdir) / "cgan.jsonl")) == 1
